for (const select of document.querySelectorAll("select[data-pick]")) {
  select.addEventListener("change", () => {
    for (const element of document.querySelectorAll(`[data-picked="${select.dataset.pick}"]`)) {
      element.hidden = element.id !== select.value;
    }
  });
}
const chosen = {};
for (const select of document.querySelectorAll("select[data-filter]")) {
  select.addEventListener("change", () => {
    chosen[select.dataset.filter] = select.value;
    for (const what of Object.keys(chosen)) {
      for (const element of document.querySelectorAll(`[data-${what}]`)) {
        const own = element.getAttribute(`data-${what}`);
        element.classList.toggle(`not-${what}`, Boolean(chosen[what]) && own !== "" && own !== chosen[what]);
      }
    }
    for (const element of document.querySelectorAll("[data-subject], [data-method], [data-prompt]")) {
      element.hidden = ["subject", "method", "prompt"].some((what) => element.classList.contains(`not-${what}`));
    }
    for (const strips of document.querySelectorAll(".strips")) {
      const shown = strips.querySelectorAll(".heads .head:not([hidden])").length;
      strips.style.setProperty("--columns", Math.max(1, shown));
    }
  });
}
