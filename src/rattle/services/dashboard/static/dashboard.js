// What every page does besides being read: charts, forms without a button, live views, keys.

import { authorization } from "./token.js";

const find = (selector, root = document) => root.querySelector(selector);
const all = (selector, root = document) => [...root.querySelectorAll(selector)];

/** The colours that charts take from the style sheet, which follow light and dark. */
function theme() {
  const style = getComputedStyle(document.documentElement);
  const read = (name) => style.getPropertyValue(`--${name}`).trim();
  const axis = { gridcolor: read("edge"), linecolor: read("edge"), zerolinecolor: read("edge"), automargin: true };
  return {
    paper_bgcolor: "transparent", plot_bgcolor: "transparent", font: { color: read("soft"), size: 12, family: style.fontFamily },
    margin: { l: 46, r: 14, t: 8, b: 36 }, hovermode: "x unified", uirevision: "kept",
    legend: { orientation: "h", y: 1.02, yanchor: "bottom", x: 0 },
    hoverlabel: { bgcolor: read("panel"), bordercolor: read("edge"), font: { color: read("ink") } },
    xaxis: { ...axis, exponentformat: "SI" }, yaxis: { ...axis, exponentformat: "SI" },
  };
}

const MOST_IN_LEGEND = 24;
const CONFIG = { responsive: true, displaylogo: false, displayModeBar: false, doubleClick: "reset" };

let charts = {};

/** Draw a chart, or draw it anew where it was drawn before; what is zoomed stays so. */
function draw(place) {
  const chart = charts[place.dataset.chart];
  if (!chart) return;
  const base = theme();
  const layout = { ...base, ...chart.layout };
  layout.xaxis = { ...base.xaxis, ...chart.layout.xaxis };
  layout.yaxis = { ...base.yaxis, ...chart.layout.yaxis };
  const lines = new Set(chart.data.map((trace) => trace.name)).size;
  layout.showlegend ??= lines > 1 && lines <= MOST_IN_LEGEND;
  if (lines > MOST_IN_LEGEND || chart.data.some((trace) => trace.type === "heatmap")) layout.hovermode = "closest";
  window.Plotly.react(place, chart.data, layout, CONFIG);
  place.dispatchEvent(new Event("drawn", { bubbles: true }));
}

const onScreen = new IntersectionObserver((entries) => {
  for (const { isIntersecting, target } of entries) {
    if (isIntersecting && target.dataset.drawn !== version) {
      target.dataset.drawn = version;
      draw(target);
    }
  }
}, { rootMargin: "200px" });
let version = "";

/** Take the charts that the page describes: those on the screen are drawn now, others when they come into sight. */
function drawCharts() {
  const content = find("#charts");
  if (!content || !window.Plotly) return;
  charts = JSON.parse(content.textContent);
  version = String(Number(version) + 1);
  for (const place of all("[data-chart]")) {
    onScreen.unobserve(place);
    onScreen.observe(place);
  }
}

/** Submit a form's choices as a short address: fields that say nothing, or what holds anyway, are left out. */
function submitShort(form) {
  const params = new URLSearchParams();
  for (const [name, value] of new FormData(form)) {
    if (value !== "" && form.elements[name].dataset?.default !== value) params.append(name, value);
  }
  const query = params.toString();
  location.assign(query ? `${form.getAttribute("action")}?${query}` : form.getAttribute("action"));
}

function wireForms() {
  for (const form of all("form[action]")) {
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      submitShort(form);
    });
  }
  for (const form of all("form[data-auto]")) {
    form.addEventListener("change", (event) => {
      if (event.target.closest(".menu") === null) submitShort(form);
    });
  }
  for (const field of all("[data-submit]")) field.addEventListener("change", () => submitShort(field.form));
  const menu = find("#columns");
  menu?.addEventListener("change", () => (menu.dataset.changed = "1"));
  menu?.addEventListener("toggle", () => { if (!menu.open && menu.dataset.changed) submitShort(menu.closest("form")); });
  document.addEventListener("click", (event) => { if (menu?.open && !menu.contains(event.target)) menu.open = false; });
}

/** The runs that are ticked: how many, all, none. */
function wireChoice() {
  const button = find("[data-compare]");
  if (!button) return;
  const boxes = () => all('input[name="run"]');
  const clear = find("[data-clear]");
  const show = () => {
    const chosen = boxes().filter((box) => box.checked).length;
    button.textContent = chosen ? `Compare ${chosen}` : "Compare";
    button.disabled = chosen === 0;
    clear.hidden = chosen === 0;
  };
  const set = (value) => { for (const box of boxes()) box.checked = value; show(); };
  document.addEventListener("change", (event) => {
    if (event.target.matches("[data-all]")) set(event.target.checked);
    else show();
  });
  clear.addEventListener("click", () => { find("[data-all]").checked = false; set(false); });
  show();
}

/** Take the parts of the same page as the server has it now. */
async function refresh() {
  const answer = await fetch(location.href, { headers: { ...authorization(), Accept: "text/html" } });
  if (!answer.ok) throw new Error(answer.statusText);
  const page = new DOMParser().parseFromString(await answer.text(), "text/html");
  const names = (root) => all("[data-chart]", root).map((place) => place.dataset.chart).join();
  if (names(page) !== names(document)) {
    location.reload();
    return;
  }
  const chosen = new Set(all('input[name="run"]:checked').map((box) => box.value));
  for (const part of all("[data-part]")) {
    const now = find(`[data-part="${part.dataset.part}"]`, page);
    if (!now || now.innerHTML === part.innerHTML || part.contains(document.activeElement)) continue;
    part.replaceChildren(...now.childNodes);
  }
  for (const box of all('input[name="run"]')) box.checked = chosen.has(box.value);
  const charts = find("#charts", page);
  if (charts && charts.textContent !== find("#charts").textContent) {
    find("#charts").textContent = charts.textContent;
    drawCharts();
  }
  if (page.body.dataset.live === undefined) delete document.body.dataset.live;
}

/** Take the page again every few seconds, as long as it says that something is in progress. */
function follow() {
  const pulse = find(".pulse");
  const goOn = () => {
    const seconds = document.body.dataset.live;
    pulse.hidden = seconds === undefined;
    if (!pulse.hidden) setTimeout(again, 1000 * Number(seconds));
  };
  const again = async () => {
    try {
      if (!document.hidden) await refresh();
      pulse.classList.remove("lost");
      pulse.lastElementChild.textContent = "live";
    } catch {
      pulse.classList.add("lost");
      pulse.lastElementChild.textContent = "no answer";
    }
    goOn();
  };
  goOn();
}

function wireKeys() {
  const dialog = find("#keys");
  find("[data-keys]").addEventListener("click", () => dialog.showModal());
  let before = "";
  document.addEventListener("keydown", (event) => {
    if ((event.ctrlKey || event.metaKey) && event.key === "Enter" && event.target.form) submitShort(event.target.form);
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("input:not([type=checkbox]), textarea, select")) return;
    const pages = { r: "/", c: "/compare", s: "/sql" };
    if (before === "g" && event.key in pages) location.assign(pages[event.key]);
    else if (event.key === "?") dialog.showModal();
    else if (event.key === "/" && find("[data-search]")) {
      event.preventDefault();
      find("[data-search]").focus();
    }
    before = event.key;
  });
}

drawCharts();
wireForms();
wireChoice();
wireKeys();
follow();
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawCharts);
