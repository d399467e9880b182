// Before anything is drawn: the light or dark that the reader chose on an earlier visit.
{
  const chosen = localStorage.getItem("sfumato-theme");
  if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
}
