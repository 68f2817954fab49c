const STEP = 0.02, WIDE = 0.1;
const box = () => element.querySelector(".handles");
let dragged = null, moved = false;

const read = () => JSON.parse(props.value);
const within = (v) => Math.max(-2, Math.min(2, Math.round(v * 1e4) / 1e4));

const seen = (percent) => Math.max(3, Math.min(97, percent)); // a point outside waits at the edge

function place(button, [x, y], [across, down], name) {
  button.style.left = `${seen(50 + (50 * x) / across)}%`;
  button.style.top = `${seen(50 + (50 * y) / down)}%`;
  button.setAttribute("aria-label", `${name}: x ${x.toFixed(2)}, y ${y.toFixed(2)}; arrow keys move it`);
}

function draw() {
  const { points, names, reach } = read();
  const host = box();
  while (host.children.length > points.length) host.lastChild.remove();
  while (host.children.length < points.length) {
    const button = document.createElement("button");
    button.type = "button";
    button.className = "handle";
    host.append(button);
  }
  points.forEach((point, k) => {
    if (k !== dragged) place(host.children[k], point, reach, names[k]);
  });
}

function move(k, x, y) {
  const value = read();
  value.points[k] = [within(x), within(y)];
  place(box().children[k], value.points[k], value.reach, value.names[k]);
  props.value = JSON.stringify(value);
  moved = true;
  trigger("input");
}

function settle() {
  dragged = null;
  if (moved) trigger("release");
  moved = false;
}

const index = (target) => [...box().children].indexOf(target.closest(".handle"));

element.addEventListener("pointerdown", (event) => {
  const k = index(event.target);
  if (k < 0) return;
  dragged = k;
  event.target.setPointerCapture(event.pointerId);
  event.target.focus();
  event.preventDefault();
});
element.addEventListener("pointermove", (event) => {
  if (dragged === null) return;
  const frame = box().getBoundingClientRect();
  const [across, down] = read().reach;
  const x = ((event.clientX - frame.left) / frame.width) * 2 - 1;
  const y = ((event.clientY - frame.top) / frame.height) * 2 - 1;
  move(dragged, x * across, y * down);
});
element.addEventListener("pointerup", settle);
element.addEventListener("pointercancel", settle);
element.addEventListener("keydown", (event) => {
  const k = index(event.target);
  const [dx, dy] = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key] ?? [0, 0];
  if (k < 0 || (!dx && !dy)) return;
  event.preventDefault();
  const [x, y] = read().points[k];
  const step = event.shiftKey ? WIDE : STEP;
  move(k, x + dx * step, y + dy * step);
});
element.addEventListener("keyup", (event) => {
  if (event.key.startsWith("Arrow")) settle();
});
watch("value", draw);
draw();
