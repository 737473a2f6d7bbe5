"use strict";
const dialog = document.querySelector("dialog");
document.addEventListener("click", (event) => {
  const tile = event.target.closest("button.tile");
  if (tile && dialog) {
    const shown = dialog.querySelector("img"), source = tile.querySelector("img");
    shown.src = source.src;
    shown.alt = source.alt;
    shown.className = source.className;
    dialog.querySelector("p").textContent = source.alt;
    dialog.showModal();
  } else if (event.target === dialog || event.target.closest("dialog")) {
    dialog.close();
  }
});
for (const select of document.querySelectorAll("select.sort")) {
  select.addEventListener("change", () => {
    const sheet = document.getElementById(select.dataset.sheet);
    const key = select.value, sign = key === "index" ? 1 : -1;
    const value = (card) => Number(card.dataset[key] ?? -Infinity);
    sheet.append(...[...sheet.children].sort((a, b) => sign * (value(a) - value(b))));
  });
}
