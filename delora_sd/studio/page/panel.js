// A panel of HTML whose buttons and fields tell the page what to do; folded parts stay as the reader left them.
const opened = new Map();
const keyOf = (node) => {
  const card = node.closest('[data-key]');
  return (card ? card.dataset.key : '') + '|' + (node === card ? '' : node.querySelector('summary').textContent);
};
const restore = () => element.querySelectorAll('details').forEach((node) => {
  const key = keyOf(node);
  if (opened.has(key) && opened.get(key) !== node.open) node.open = opened.get(key);
});
element.addEventListener('click', (event) => {
  const copy = event.target.closest('[data-copy]');
  if (copy) {
    navigator.clipboard?.writeText(copy.parentElement.querySelector('code').textContent);
    copy.textContent = 'Copied';
    return;
  }
  const summary = event.target.closest('summary');
  if (summary) setTimeout(() => opened.set(keyOf(summary.parentElement), summary.parentElement.open));
  const button = event.target.closest('[data-do]');
  if (!button || (button.dataset.ask && !confirm(button.dataset.ask))) return;
  trigger('click', { do: button.dataset.do, name: button.dataset.name || '', text: '' });
});
element.addEventListener('change', (event) => {
  const field = event.target.closest('[data-edit]');
  if (field) trigger('click', { do: field.dataset.edit, name: field.dataset.name, text: field.value });
});
watch('value', restore);
