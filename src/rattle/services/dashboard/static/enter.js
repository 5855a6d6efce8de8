// Gets a page that the server shows to those who know its token, and puts it in place of this one.

import { authorization, keepToken } from "./token.js";

const form = document.querySelector("form");

async function enter() {
  const headers = authorization();
  if (!headers.Authorization) return form.token.focus();
  let answer;
  try {
    answer = await fetch(location.href, { headers: { ...headers, Accept: "text/html" } });
  } catch {
    return say("The dashboard does not answer.");
  }
  if (answer.status === 401) {
    keepToken(null);
    return say("This is another token than the dashboard asks for.");
  }
  const page = await answer.text();
  document.open();
  document.write(page);
  document.close();
}

function say(words) {
  form.hidden = false;
  document.querySelector("[role=alert]").textContent = words;
  form.token.focus();
}

form.hidden = "Authorization" in authorization();
form.addEventListener("submit", (event) => {
  event.preventDefault();
  keepToken(form.token.value.trim());
  enter();
});
enter();
