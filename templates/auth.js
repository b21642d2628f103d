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

// Adds a button to each password field that shows or hides the password.
for (const box of document.querySelectorAll(".auth-password")) {
  const input = box.querySelector("input");
  const button = document.createElement("button");
  const status = document.createElement("span");

  const show = (visible) => {
    input.type = visible ? "text" : "password";
    button.setAttribute("aria-pressed", String(visible));
  };

  button.type = "button";
  button.className = "auth-show";
  button.textContent = box.dataset.show;
  button.setAttribute("aria-controls", input.id);
  button.setAttribute("aria-describedby", input.id + "_label");
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
