"use strict";

// All pages work without this file.

// Submits the form that was saved while the visitor confirmed the password. A page from the back/forward cache
// does not submit it again.
const resend = document.querySelector(":not(.auth-waits) > .auth-resend");
window.addEventListener("pageshow", (event) => {
  if (resend && !event.persisted) {
    resend.requestSubmit();
  }
});

// Draws an eye, and the line that crosses it out while the password is visible.
function eye() {
  const create = (name, attributes) => {
    const element = document.createElementNS("http://www.w3.org/2000/svg", name);
    Object.entries(attributes).forEach(([key, value]) => element.setAttribute(key, value));
    return element;
  };
  const icon = create("svg", { viewBox: "0 0 24 24", "aria-hidden": "true" });
  icon.append(
    create("path", { d: "M2 12c2.4-4.4 5.9-6.6 10-6.6s7.6 2.2 10 6.6c-2.4 4.4-5.9 6.6-10 6.6S4.4 16.4 2 12z" }),
    create("circle", { cx: "12", cy: "12", r: "3.2" }),
    create("path", { d: "M4 20 20 4", class: "auth-slash" }),
  );
  return icon;
}

// Adds a button to each password field that shows or hides the password.
for (const box of document.querySelectorAll(".auth-password")) {
  const input = box.querySelector("input");
  const button = document.createElement("button");
  const name = document.createElement("span");
  const status = document.createElement("span");

  const show = (visible) => {
    input.type = visible ? "text" : "password";
    button.setAttribute("aria-pressed", String(visible));
  };

  button.type = "button";
  button.className = "auth-show";
  button.title = box.dataset.show;
  button.setAttribute("aria-controls", input.id);
  button.setAttribute("aria-describedby", input.id + "_label");
  name.className = "auth-unseen";
  name.textContent = box.dataset.show;
  button.append(eye(), name);
  status.className = "auth-unseen";
  status.setAttribute("role", "status");
  show(false);

  button.addEventListener("click", () => {
    show(input.type === "password");
    status.textContent = input.type === "text" ? box.dataset.visible : box.dataset.hidden;
  });
  // Browsers save the contents of text fields and cache whole pages for the back button. Therefore the password is
  // hidden again before the form is submitted and before the page is left.
  input.form?.addEventListener("submit", () => show(false));
  window.addEventListener("pagehide", () => show(false));
  box.append(button, status);
}

// Adds a button that copies a text which is shown only once. Without this file, the visitor selects the text.
for (const box of document.querySelectorAll(".auth-copy")) {
  const input = box.querySelector("input");
  const button = document.createElement("button");
  const status = document.createElement("span");

  button.type = "button";
  button.className = "auth-quiet";
  button.textContent = box.dataset.copy;
  button.setAttribute("aria-describedby", input.id + "_label");
  status.setAttribute("role", "status");
  input.addEventListener("focus", () => input.select());
  button.addEventListener("click", async () => {
    input.select();
    try {
      await navigator.clipboard.writeText(input.value);
    } catch {
      document.execCommand("copy"); // pages without https have no clipboard
    }
    status.textContent = " " + box.dataset.copied;
  });
  // Browsers cache whole pages for the back button, and this text must not come back.
  window.addEventListener("pagehide", () => {
    input.value = "";
  });
  box.append(button, status);
}
