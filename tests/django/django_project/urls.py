"""Views with which the tests control Django over HTTP."""

import json
import time

from django.contrib import admin, auth, messages
from django.http import HttpResponse, JsonResponse
from django.template import engines
from django.urls import include, path
from django.views.decorators.csrf import csrf_exempt

FORM = "<form method=post>{% csrf_token %}</form>"


def whoami(request):
    user = request.user
    return JsonResponse(
        {
            "username": user.get_username(),
            "permissions": sorted(user.get_all_permissions()) if user.is_authenticated else [],
            "session": dict(request.session),
            "key": request.session.session_key,
            "messages": [str(message) for message in messages.get_messages(request)],
        }
    )


@csrf_exempt
def login(request):
    """Logs a user in with Django's `authenticate` and `login`."""
    user = auth.authenticate(request, **json.loads(request.body))
    if user is None:
        return HttpResponse(status=403)
    auth.login(request, user)
    return HttpResponse()


@csrf_exempt
def logout(request):
    auth.logout(request)
    return HttpResponse()


@csrf_exempt
def session(request):
    """Merges JSON into the session. `?wait` is the delay in seconds between reading and changing it."""
    len(dict(request.session))
    time.sleep(float(request.GET.get("wait", 0)))
    request.session.update(json.loads(request.body))
    return HttpResponse()


@csrf_exempt
def expire(request):
    request.session.set_expiry(json.loads(request.body))
    return HttpResponse()


@csrf_exempt
def message(request):
    messages.success(request, request.body.decode())
    return HttpResponse()


@csrf_exempt
def password(request):
    """Changes the user's password and keeps this session, as Django's page does."""
    request.user.set_password(request.body.decode())
    request.user.save()
    auth.update_session_auth_hash(request, request.user)
    return HttpResponse()


def form(request):
    """A form with CSRF protection."""
    if request.method == "POST":
        return HttpResponse("posted")
    return HttpResponse(engines["django"].from_string(FORM).render({}, request))


@csrf_exempt
def run(request):
    """Runs code. Returns the value that it assigns to `result`."""
    names = {"json": json, "User": auth.get_user_model(), "result": None}
    exec(request.body.decode(), names)
    return JsonResponse({"result": names["result"]})


urlpatterns = [
    path("run", run),
    path("whoami", whoami),
    path("login", login),
    path("logout", logout),
    path("session", session),
    path("expire", expire),
    path("message", message),
    path("password", password),
    path("form", form),
    path("admin/", admin.site.urls),
    path("accounts/", include("django.contrib.auth.urls")),
]
