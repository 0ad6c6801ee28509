"use strict";
(() => {
  const all = (selector, from = document) => [...from.querySelectorAll(selector)];

  // Points of the front: hovering, focusing or tapping one shows its network beside the chart.
  const details = all(".detail");
  const points = all(".point");
  const show = (name) => {
    for (const detail of details) detail.hidden = detail.dataset.network !== name;
    for (const point of points) point.classList.toggle("shown", point.dataset.network === name);
  };
  const visible = () => details.find((detail) => !detail.hidden)?.dataset.network;
  for (const point of points) {
    const name = point.dataset.network;
    let before;
    point.addEventListener("pointerenter", (event) => { if (event.pointerType !== "touch") show(name); });
    point.addEventListener("focus", () => { if (before === undefined) show(name); });
    point.addEventListener("pointerdown", (event) => { before = event.pointerType === "touch" ? visible() : name; });
    point.addEventListener("click", (event) => {
      // A finger cannot hover: its first tap shows, the second follows the link.
      if (before !== undefined && before !== name) event.preventDefault();
      before = undefined;
      show(name);
    });
  }
  if (details.length) show(visible());

  // A link into a closed section opens it.
  const open = () => {
    const target = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
    for (let at = target; at; at = at.parentElement) if (at.tagName === "DETAILS") at.open = true;
    if (target) target.scrollIntoView();
  };
  addEventListener("hashchange", open);
  open();

  // Paper has no closed sections.
  let closed = [];
  addEventListener("beforeprint", () => { closed = all("details:not([open])"); for (const one of closed) one.open = true; });
  addEventListener("afterprint", () => { for (const one of closed) one.open = false; });

  // Confusions of many classes: those of the classes that are asked for, or the most frequent of all.
  const names = JSON.parse(document.getElementById("classes")?.textContent ?? "[]");
  for (const box of all(".confusions")) {
    const input = box.querySelector("input");
    const body = box.querySelector("tbody");
    const cells = JSON.parse(box.querySelector("script").textContent);
    const first = body.rows.length;
    input.addEventListener("input", () => {
      const asked = input.value.trim().toLowerCase();
      const found = asked ? cells.filter((cell) => cell.slice(0, 2).some((i) => names[i].toLowerCase().includes(asked))) : cells;
      body.replaceChildren(...found.slice(0, first).map((cell) => {
        const row = document.createElement("tr");
        [names[cell[0]], names[cell[1]], cell[2]].forEach((text, i) => { row.insertCell().textContent = text; row.cells[i].className = i === 1 ? "left" : ""; });
        return row;
      }));
      const known = found.length || names.some((name) => name.toLowerCase().includes(asked));
      box.querySelector("output").textContent = found.length > first ? `The ${first} most frequent of ${found.length}.` : found.length ? `${found.length} found.` : known ? "Never taken for another." : "No class of this name.";
    });
  }

  // The population, generation by generation.
  const data = document.getElementById("frames");
  if (!data) return;
  const frames = JSON.parse(data.textContent);
  const slider = document.getElementById("generation");
  const output = document.getElementById("generation-text");
  const play = document.getElementById("play");
  const members = document.getElementById("members");
  const circle = ([x, y], kind) => {
    const element = document.createElementNS("http://www.w3.org/2000/svg", "circle");
    for (const [key, value] of Object.entries({ cx: x, cy: y, r: 3.3, class: `member ${kind}` })) element.setAttribute(key, value);
    return element;
  };
  const draw = () => {
    const frame = frames[slider.value];
    members.setAttribute("class", frame.stage);
    members.replaceChildren(...frame.then.map((at) => circle(at, "then")), ...frame.now.map((at) => circle(at, "now")));
    const text = `${slider.dataset[frame.stage]}, generation ${frame.generation}, selection ${frame.rule}`;
    output.textContent = text;
    output.className = frame.stage;
    slider.setAttribute("aria-valuetext", text);
  };
  let timer = 0;
  const stop = () => { clearInterval(timer); timer = 0; play.textContent = "Play"; };
  slider.addEventListener("input", () => { stop(); draw(); });
  play.addEventListener("click", () => {
    if (timer) { stop(); return; }
    if (+slider.value === frames.length - 1) slider.value = 0;
    play.textContent = "Pause";
    draw();
    timer = setInterval(() => {
      slider.value = +slider.value + 1;
      draw();
      if (+slider.value === frames.length - 1) stop();
    }, 450);
  });
  draw();
})();
