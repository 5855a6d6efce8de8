// The token of the server, given as PAGE#token=TOKEN: what follows # is sent to no server and stands in no log.

const KEY = "rattle-token";

/** Keep a token for this tab; null forgets it. */
export function keepToken(token) {
  if (token) sessionStorage.setItem(KEY, token);
  else sessionStorage.removeItem(KEY);
}

/** Take the token out of the page's address; true where there was one. */
function takeToken() {
  const token = new URLSearchParams(location.hash.slice(1)).get("token");
  if (!token) return false;
  keepToken(token);
  history.replaceState(history.state, "", location.pathname + location.search);
  return true;
}

/** Return the headers that carry the token, where it is known. */
export function authorization() {
  const token = sessionStorage.getItem(KEY);
  return token ? { Authorization: `Bearer ${token}` } : {};
}

takeToken();
addEventListener("hashchange", () => { if (takeToken()) location.reload(); });
