// What the theme leaves out for readers without a mouse or a screen.
addEventListener("DOMContentLoaded", () => {
  for (const caption of document.querySelectorAll('.caption[role="heading"]')) caption.setAttribute("aria-level", "2");
  document.querySelectorAll("aside").forEach((aside, k) => aside.setAttribute("aria-label", k ? "On this page" : "Pages"));
  for (const one of document.querySelectorAll("article pre, article .table-wrapper"))
    if (one.scrollWidth > one.clientWidth) one.tabIndex = 0;
});
