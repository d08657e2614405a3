// Equations, in the page as \( \) and \[ \], on every page that is shown.
document$.subscribe(() =>
  renderMathInElement(document.body, {
    delimiters: [
      { left: "\\(", right: "\\)", display: false },
      { left: "\\[", right: "\\]", display: true },
    ],
  }),
);
