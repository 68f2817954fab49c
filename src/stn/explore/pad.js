const canvas = () => element.querySelector("canvas");
const WIDTH = 10;
let last = null, sent = 0;

function show() {
  const image = new Image();
  image.onload = () => {
    const paint = canvas().getContext("2d");
    paint.fillStyle = "#000";
    paint.fillRect(0, 0, canvas().width, canvas().height);
    paint.drawImage(image, 0, 0, canvas().width, canvas().height);
  };
  image.src = props.value;
}

function at(event) {
  const frame = canvas().getBoundingClientRect();
  const scale = canvas().width / frame.width;
  return [(event.clientX - frame.left) * scale, (event.clientY - frame.top) * scale];
}

function send() {
  sent = performance.now();
  props.value = canvas().toDataURL("image/png");
  trigger("input");
}

element.addEventListener("pointerdown", (event) => {
  if (event.target !== canvas()) return;
  canvas().setPointerCapture(event.pointerId);
  last = at(event);
  event.preventDefault();
});
element.addEventListener("pointermove", (event) => {
  if (last === null) return;
  const next = at(event), paint = canvas().getContext("2d");
  paint.strokeStyle = "#fff";
  paint.lineWidth = WIDTH;
  paint.lineCap = paint.lineJoin = "round";
  paint.beginPath();
  paint.moveTo(...last);
  paint.lineTo(...next);
  paint.stroke();
  last = next;
  if (performance.now() - sent > 60) send();
});
for (const end of ["pointerup", "pointercancel"])
  element.addEventListener(end, () => {
    if (last !== null) send();
    last = null;
  });
watch("value", show);
show();
