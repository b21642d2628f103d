"""The rows of OWASP ASVS 5.0.0 that an authentication package decides, each with its check."""

from . import access, guessing, headers, operation, origins, passwords, recovery, sessions
from .application import Target
from .factors import apps, passkeys
from .passwords import only_with_passwords
from .results import Result, Row, absent, always, manual

CHAPTERS = {
    2: "Validation and business logic",
    3: "Web frontend",
    4: "API and web service",
    6: "Authentication",
    7: "Session management",
    8: "Authorization",
    11: "Cryptography",
    13: "Configuration",
    14: "Data protection",
    15: "Secure coding",
    16: "Security logging",
}
#: What mends a row beside Django, where Django's settings decide.
BESIDE_DJANGO = {
    "3.3.1": "Django's cookies have no prefix. Without DjangoProject() they have one; beside Django, keep this failure.",
    "3.3.3": "Django's cookies have no prefix. Without DjangoProject() they have one; beside Django, keep this failure.",
    "3.3.4": "If no script reads the cookie: CSRF_COOKIE_HTTPONLY = True, and DjangoProject(csrf_cookie_httponly=True).",
    "6.4.1": "Set PASSWORD_RESET_TIMEOUT = 3600 in Django, and pass DjangoProject(password_reset_timeout=3600).",
    "7.3.1": "Django stores no last use of a session. Without DjangoProject() sessions have this limit.",
    "7.3.2": "Django stores no start of a session. Without DjangoProject() sessions have this limit.",
    "7.4.5": "A new password or is_active=False ends a user's sessions. Without DjangoProject() staff can end them.",
}
NO_PROVIDER = "no identity provider: users log in here"
NO_PHONE = "no text messages or calls"
NOT_OUT_OF_BAND = "no codes or requests on a second channel"


def _absent(id: str, level: int, requirement: str, why: str) -> Row:
    return Row(id, level, requirement, always(absent(why)))


def _manual(id: str, level: int, requirement: str, question: str) -> Row:
    return Row(id, level, requirement, always(manual(question)))


async def _federation(target: Target) -> Result:
    if guessing.trusts_a_proxy(target):
        return manual("is what your reverse proxy says about users verified, and can no client send its header?")
    return absent(NO_PROVIDER)


FRONTEND = (
    Row("3.2.1", 1, "data is not rendered as a page", headers.wrong_context),
    Row("3.3.1", 1, "cookies are Secure and have a prefix", headers.secure),
    Row("3.3.2", 2, "cookies have SameSite", headers.same_site),
    Row("3.3.3", 2, "cookies have the prefix __Host-", headers.host_prefix),
    Row("3.3.4", 2, "scripts cannot read the session cookie", headers.http_only),
    Row("3.3.5", 3, "cookies are small enough", headers.size),
    Row("3.4.1", 1, "HSTS for a year", headers.hsts),
    Row("3.4.2", 1, "other origins read nothing (CORS)", headers.cors),
    Row("3.4.3", 2, "Content-Security-Policy", headers.content_security_policy),
    Row("3.4.4", 2, "nosniff", headers.nosniff),
    Row("3.4.5", 2, "Referrer-Policy", headers.referrer_policy),
    Row("3.4.6", 2, "no frames on other sites", headers.frame_ancestors),
    Row("3.4.7", 3, "CSP violations are reported", headers.violation_reports),
    Row("3.4.8", 3, "Cross-Origin-Opener-Policy", headers.opener_policy),
    Row("3.5.1", 1, "requests of other sites are refused (CSRF)", origins.cross_site),
    Row("3.5.2", 1, "no JSON without a preflight", origins.without_preflight),
    Row("3.5.3", 1, "GET changes nothing", origins.safe_methods),
    Row("3.5.8", 3, "other sites cannot embed a user's data", headers.resource_policy),
    Row("3.7.2", 2, "redirects stay on the site", origins.redirects),
    Row("4.1.1", 1, "responses name their type and charset", origins.media_types),
    Row("4.1.3", 2, "a client cannot forge a proxy's headers", origins.forged_address),
    Row("4.4.2", 2, "WebSockets check the origin", origins.web_sockets),
)
PASSWORDS = (
    Row("6.2.1", 1, "passwords have a minimum length", only_with_passwords(passwords.minimum_length)),
    Row("6.2.2", 1, "users can change their password", only_with_passwords(passwords.change_possible)),
    Row("6.2.3", 1, "a change needs the old password", only_with_passwords(passwords.change_needs_old)),
    Row("6.2.4", 1, "common passwords are refused", only_with_passwords(passwords.common)),
    Row("6.2.5", 1, "any kind of characters", only_with_passwords(passwords.composition)),
    Row("6.2.6", 1, "passwords are masked", only_with_passwords(passwords.masked)),
    Row("6.2.7", 1, "pasting and password managers work", only_with_passwords(passwords.managers)),
    Row("6.2.8", 1, "passwords are checked as they came", only_with_passwords(passwords.as_received)),
    Row("6.2.9", 2, "64 characters are allowed", only_with_passwords(passwords.long_ones)),
    Row("6.2.10", 2, "passwords do not expire", only_with_passwords(passwords.no_rotation)),
    Row("6.2.11", 2, "words of the site are refused", only_with_passwords(passwords.context_words)),
    Row("6.2.12", 2, "breached passwords are refused", only_with_passwords(passwords.breached)),
)
AUTHENTICATION = (
    _manual(
        "6.1.1", 1, "limits and lockouts documented", "do you document your rates, and how an owner gets in again?"
    ),
    _manual("6.1.2", 2, "words of the site documented", "do you keep a list of the names that 6.2.11 shows?"),
    Row("6.1.3", 2, "ways to log in documented", guessing.described_ways),
    *PASSWORDS,
    Row("6.3.1", 1, "guessing is slowed down", guessing.brute_force),
    Row("6.3.2", 1, "no default accounts", guessing.default_accounts),
    Row("6.3.3", 2, "a second factor is required", guessing.second_factor),
    Row("6.3.4", 2, "all ways to log in are equally strong", guessing.pathways),
    Row("6.3.5", 3, "suspicious logins are reported to users", guessing.suspicious_logins),
    Row("6.3.6", 3, "e-mail is no factor", guessing.mail_is_no_factor),
    Row("6.3.7", 3, "changes are reported to users", guessing.change_notices),
    Row("6.3.8", 3, "no page tells who has an account", guessing.enumeration),
    Row("6.4.1", 1, "first passwords and links end soon", recovery.initial_secrets),
    Row("6.4.2", 1, "no hints or secret questions", recovery.no_hints),
    Row("6.4.3", 2, "a secure reset", recovery.secure_reset),
    Row("6.4.4", 2, "a lost factor is replaced carefully", recovery.lost_factor),
    _absent("6.4.5", 3, "reminders before a factor expires", "nothing that expires and is renewed"),
    _manual(
        "6.4.6",
        3,
        "staff starts a reset, and chooses nothing",
        "do staff use `sendpasswordreset` and never choose one?",
    ),
    Row("6.5.1", 2, "codes work once", apps.used_once),
    Row("6.5.2", 2, "recovery codes are hashed", apps.hashed),
    Row("6.5.3", 2, "codes are random", apps.random_codes),
    Row("6.5.4", 2, "codes have 20 bits", apps.enough_bits),
    Row("6.5.5", 2, "codes end soon", apps.short_lived),
    Row("6.5.6", 3, "a lost factor can be revoked", apps.revocable),
    Row("6.5.7", 3, "biometrics only beside another factor", passkeys.biometrics),
    Row("6.5.8", 3, "codes use the server's time", apps.server_time),
    _absent("6.6.1", 2, "text messages only beside a stronger factor", NO_PHONE),
    _absent("6.6.2", 2, "codes belong to one login", NOT_OUT_OF_BAND),
    _absent("6.6.3", 2, "guessing of codes is slowed down", NOT_OUT_OF_BAND),
    _absent("6.6.4", 3, "no flood of push messages", NOT_OUT_OF_BAND),
    Row("6.7.1", 3, "stored certificates are protected", passkeys.stored_keys),
    Row("6.7.2", 3, "challenges have 64 bits", passkeys.challenges),
    Row("6.8.1", 2, "users of two providers are kept apart", _federation),
    Row("6.8.2", 2, "assertions are verified", _federation),
    Row("6.8.3", 2, "assertions work once", _federation),
    Row("6.8.4", 2, "the provider's strength is checked", _federation),
)
SESSIONS = (
    Row("7.1.1", 2, "timeouts documented", sessions.timeouts_documented),
    Row("7.1.2", 2, "number of sessions documented", sessions.concurrency_documented),
    Row("7.1.3", 2, "federated sessions documented", _federation),
    Row("7.2.1", 1, "the server verifies session keys", sessions.verified_at_the_server),
    Row("7.2.2", 1, "session keys are made for each login", sessions.dynamic_tokens),
    Row("7.2.3", 1, "session keys have 128 random bits", sessions.strong_keys),
    Row("7.2.4", 1, "a new key at each login", sessions.new_key_at_login),
    Row("7.3.1", 2, "an idle timeout", sessions.idle_timeout),
    Row("7.3.2", 2, "an absolute timeout", sessions.absolute_timeout),
    Row("7.4.1", 1, "a logout ends the session", sessions.logout),
    Row("7.4.2", 1, "deactivating a user ends the sessions", sessions.disabled_and_deleted),
    Row("7.4.3", 2, "a new password ends other sessions", sessions.others_end),
    Row("7.4.4", 2, "each page has a logout", sessions.logout_in_sight),
    Row("7.4.5", 2, "administrators can end sessions", sessions.ended_by_administrators),
    Row("7.5.1", 2, "sensitive changes need the password", sessions.sensitive_changes),
    Row("7.5.2", 2, "users see and end their sessions", sessions.own_sessions),
    Row("7.5.3", 3, "sensitive actions need the password", sessions.step_up),
    Row("7.6.1", 2, "lifetimes agree with the provider's", _federation),
    Row("7.6.2", 2, "no login without an action", sessions.no_login_without_action),
)
AUTHORIZATION = (
    _manual("8.1.1", 1, "rules about functions and data documented", "do you document who may do what?"),
    _manual("8.1.2", 2, "rules about fields documented", "do you document who may read and write which field?"),
    _manual("8.1.3", 3, "circumstances documented", "do you document which circumstances your decisions use?"),
    _manual("8.1.4", 3, "thresholds of risk documented", "do you document what you do at which risk?"),
    Row("8.2.1", 1, "each endpoint says who may call it", access.functions),
    Row("8.2.2", 1, "objects of others are out of reach", access.objects),
    _manual(
        "8.2.3", 2, "fields of others are out of reach", "does each page read and write only fields that its user may?"
    ),
    _manual("8.2.4", 3, "decisions adapt to circumstances", "do you react to unusual times, places or devices?"),
    Row("8.3.1", 1, "the server enforces the rules", access.enforced_by_the_server),
    Row("8.3.2", 3, "changed rights count at once", access.changes_at_once),
    _manual(
        "8.3.3", 3, "rights of the user, not of a service", "do services behind this one get the user's rights only?"
    ),
    _manual(
        "8.4.1",
        2,
        "tenants are kept apart",
        "do several tenants share this application, and its rules keep them apart?",
    ),
    _manual("8.4.2", 3, "administration has more than one guard", "what guards your staff pages beside a login?"),
)
NEIGHBOURS = (
    Row("11.4.1", 1, "no broken hash functions", operation.hash_functions),
    Row("11.4.2", 2, "passwords are stored with costly hashes", operation.password_storage),
    Row("11.5.1", 2, "secrets have 128 random bits", recovery.random_secrets),
    Row("13.3.1", 2, "keys are kept safe", operation.secret_key),
    Row("13.4.2", 2, "debugging is off", operation.debug),
    Row("13.4.4", 2, "no TRACE", origins.trace),
    Row("13.4.5", 2, "no documentation by accident", access.documentation_pages),
    Row("14.2.1", 1, "no secrets in URLs", recovery.no_secrets_in_urls),
    Row("14.3.1", 1, "a logout clears the browser", headers.cleared_after_logout),
    Row("14.3.2", 2, "responses for a user are not stored", headers.not_stored),
    Row("15.3.3", 2, "forms write only their own fields", access.extra_fields),
    Row("15.3.4", 2, "the address of a client is right", origins.forged_address),
    Row("15.3.7", 2, "a parameter given twice is refused", access.parameter_pollution),
    Row("16.2.1", 2, "log lines say who, what, where, when", operation.metadata),
    Row("16.2.5", 2, "no secrets in logs", operation.no_secrets_logged),
    Row("16.3.1", 2, "logins are logged", operation.authentication_logged),
    Row("16.3.2", 2, "refusals are logged", operation.refusals_logged),
    Row("16.3.3", 2, "attempts to get round are logged", operation.bypasses_logged),
    Row("16.4.1", 2, "clients cannot forge log lines", operation.no_injection),
)
ROWS = (
    Row("2.3.1", 1, "steps cannot be skipped", recovery.steps_in_order),
    Row("2.4.1", 2, "costly actions have limits", guessing.automation),
    *FRONTEND,
    *AUTHENTICATION,
    *SESSIONS,
    *AUTHORIZATION,
    *NEIGHBOURS,
)
