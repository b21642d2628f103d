"use strict";

// Everything works without this file.

// What somebody had filled in before the password was asked for once more: sent at once, and only once.
const resend = document.querySelector(".auth-resend");
window.addEventListener("pageshow", (event) => {
  if (resend && !event.persisted) {
    resend.requestSubmit();
  }
});

// A button for each password that lets people see what they type.
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
  // Browsers keep what was typed into a text field, and the page itself when one goes back to it.
  input.form?.addEventListener("submit", () => show(false));
  window.addEventListener("pagehide", () => show(false));
  box.append(button, status);
}
