"use strict";

// Asks the browser for a passkey, and sends it with the form. Without passkeys the form stays hidden.
const api = window.PublicKeyCredential;
const form = document.querySelector(".auth-passkey");
const canUse = Boolean(api?.parseRequestOptionsFromJSON);

async function ask(settings) {
  const { create, get } = form.dataset;
  const publicKey = create
    ? api.parseCreationOptionsFromJSON(JSON.parse(create))
    : api.parseRequestOptionsFromJSON(JSON.parse(get));
  const credential = await navigator.credentials[create ? "create" : "get"]({ publicKey, ...settings });
  form.elements.credential.value = JSON.stringify(credential);
  if (document.querySelector("[name=remember]:checked")) {
    form.elements.remember.value = "on";
  }
  form.submit();
}

// The dialog of the button replaces the offer in the username field.
async function start() {
  const offer = new AbortController();
  form.addEventListener("submit", async (event) => {
    const status = form.querySelector("[role=status]");
    event.preventDefault();
    offer.abort();
    status.textContent = "";
    try {
      await ask();
    } catch (error) {
      status.textContent = error.name === "InvalidStateError" ? form.dataset.known : form.dataset.cancelled;
    }
  });
  if ("autofill" in form.dataset && (await api.isConditionalMediationAvailable?.())) {
    ask({ mediation: "conditional", signal: offer.signal }).catch(() => {});
  }
  // The options are too old then.
  setTimeout(() => {
    if ([...document.querySelectorAll("input")].every((input) => input.value === input.defaultValue)) {
      location.assign(location.pathname + location.search);
    }
  }, form.dataset.reload * 1000 || 2 ** 31 - 1);
}

if (form && canUse) {
  form.hidden = false;
  start();
} else if (form) {
  form.nextElementSibling.hidden = false;
}

// Tells the browser which passkeys it can forget.
for (const { dataset } of document.querySelectorAll("[data-signal]")) {
  api?.[dataset.signal]?.(JSON.parse(dataset.with)).catch(() => {});
}
