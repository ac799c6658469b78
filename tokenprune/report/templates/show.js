// Shows one block at a time. Without this script the page is a strip of all blocks.
(() => {
  const slider = document.getElementById("block");
  const form = slider.form;
  const output = form.querySelector("output");
  const button = document.getElementById("play");
  const outlines = document.getElementById("outlines");
  const last = Number(slider.max);
  let timer = null;

  const show = () => {
    const block = Number(slider.value);
    output.value = `${block} / ${last}`;
    slider.setAttribute("aria-valuetext", `block ${block}, the last is ${last}`);
    for (const strip of document.querySelectorAll(".strip")) {
      const frames = [...strip.children];
      const at = Math.min(block, Number(frames.at(-1).dataset.last));  // a model of fewer blocks stays at its last
      for (const frame of frames) frame.classList.toggle("on", Number(frame.dataset.first) <= at && at <= Number(frame.dataset.last));
    }
    for (const bar of document.querySelectorAll(".bars rect")) bar.classList.toggle("on", Number(bar.dataset.block) === block);
  };
  const move = (to) => {
    slider.value = Math.max(0, Math.min(last, to));
    show();
  };
  const stop = () => {
    clearInterval(timer);
    timer = null;
    button.textContent = "Play";
    button.setAttribute("aria-pressed", "false");
  };
  const play = () => {
    button.textContent = "Pause";
    button.setAttribute("aria-pressed", "true");
    timer = setInterval(() => move(Number(slider.value) === last ? 0 : Number(slider.value) + 1), 700);
  };

  slider.addEventListener("input", () => { stop(); show(); });
  button.addEventListener("click", () => (timer === null ? play() : stop()));
  if (outlines) outlines.addEventListener("change", () => document.body.classList.toggle("plain", !outlines.checked));
  document.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!step || event.altKey || event.ctrlKey || event.metaKey || event.target === slider) return;  // the slider has keys of its own
    event.preventDefault();
    stop();
    move(Number(slider.value) + step);
  });
  for (const bar of document.querySelectorAll(".bars rect")) bar.addEventListener("click", () => { stop(); move(Number(bar.dataset.block)); });

  form.addEventListener("submit", (event) => event.preventDefault());
  document.body.classList.add("steered");
  form.hidden = false;
  show();
})();
