"use strict";
// What is under the pointer: the nearest logged step of every curve of a panel.
const described = JSON.parse(document.getElementById("curves").textContent);
const tip = document.getElementById("tip");

function nearest(points, step) {
  let best = points[0];
  for (const point of points) {
    if (Math.abs(point[0] - step) < Math.abs(best[0] - step)) best = point;
  }
  return best;
}

document.querySelectorAll("svg.panel").forEach((svg, index) => {
  const panel = described[index];
  const [left, right, top, bottom] = panel.frame;
  const pointer = document.createElementNS("http://www.w3.org/2000/svg", "line");
  pointer.setAttribute("class", "pointer");
  pointer.setAttribute("y1", top);
  pointer.setAttribute("y2", bottom);

  svg.addEventListener("pointermove", (event) => {
    const box = svg.getBoundingClientRect();
    const at = ((event.clientX - box.left) / box.width) * svg.viewBox.baseVal.width;
    const share = Math.min(1, Math.max(0, (at - left) / (right - left)));
    const step = panel.x[0] + share * (panel.x[1] - panel.x[0]);
    const x = left + share * (right - left);
    pointer.setAttribute("x1", x);
    pointer.setAttribute("x2", x);
    svg.append(pointer);
    tip.textContent = panel.series
      .map((series) => {
        const [found, value] = nearest(series.points, step);
        return `${series.label}: ${value === null ? "no number" : value.toPrecision(5)} (step ${found})`;
      })
      .join("\n");
    tip.style.display = "block";
    tip.style.left = `${Math.min(event.clientX + 14, window.innerWidth - tip.offsetWidth - 8)}px`;
    tip.style.top = `${event.clientY + 14}px`;
  });
  svg.addEventListener("pointerleave", () => {
    tip.style.display = "none";
    pointer.remove();
  });
});
