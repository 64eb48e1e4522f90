// A new HTML element with this text and these classes.
export function element (name, text = '', className = '') {
  const made = document.createElement(name)
  made.textContent = text
  made.className = className
  return made
}
