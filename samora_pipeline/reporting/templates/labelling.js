"use strict";
(() => {
  const errors = [];
  addEventListener("error", (event) => errors.push(String(event.message)));
  document.addEventListener("securitypolicyviolation", (event) => errors.push(`${event.violatedDirective} ${event.blockedURI}`));

  const { identity, file, slices } = JSON.parse(document.getElementById("data").textContent);
  const find = (name) => document.getElementById(name);
  const choices = [...document.querySelectorAll("input[name=verdict]")];
  const slider = find("slider");
  const key = `samora-verdicts-${identity}`;

  // Browsers may keep nothing for pages that lie on the disk.
  const stored = (action) => { try { return action(); } catch { return null; } };
  const verdicts = new Map(JSON.parse(stored(() => localStorage.getItem(key)) ?? "[]"));
  const place = () => Number(slider.value) - 1;

  const exported = () => ({
    schema_version: 1,
    identity,
    slices: slices
      .map((slice, number) => ({ case: slice.case, index: slice.index, verdict: verdicts.get(number) }))
      .filter((slice) => slice.verdict !== undefined),
  });

  const show = () => {
    const slice = slices[place()];
    find("title").textContent = `${slice.case}, slice ${slice.index}`;
    find("reason").textContent = slice.reason;
    find("scan").src = slice.scan;
    find("scan").alt = `scan ${slice.case}, slice ${slice.index}`;
    find("proposal").src = slice.proposal;
    find("place").textContent = `${slider.value} of ${slices.length}`;
    for (const choice of choices) choice.checked = verdicts.get(place()) === choice.value;
    find("count").textContent = `${verdicts.size} of ${slices.length} slices have a verdict`;
  };

  const judge = (verdict) => {
    verdicts.set(place(), verdict);
    stored(() => localStorage.setItem(key, JSON.stringify([...verdicts])));
    show();
  };

  slider.addEventListener("input", show);
  for (const choice of choices) choice.addEventListener("change", () => judge(choice.value));
  find("shown").addEventListener("change", (event) => document.querySelector(".stack").classList.toggle("plain", !event.target.checked));
  addEventListener("keydown", (event) => {
    if (event.key === "a") judge("accept");
    if (event.key === "w") judge("needs work");
  });
  find("export").addEventListener("click", () => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([`${JSON.stringify(exported(), null, 2)}\n`], { type: "application/json" }));
    link.download = file;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60000);
  });
  show();
  window.reportReady = { cases: slices.length, errors, exported };
})();
