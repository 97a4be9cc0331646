// Shows one hop of a trace at a time. The page holds all of them; the hash says which is shown: #1-3 is hop 3 of way 1.
// (An article's id is another, hop-1-3: the browser would scroll to it by itself.)
(() => {
  "use strict";
  const all = (selector, inside = document) => [...inside.querySelectorAll(selector)];
  const one = (selector) => document.querySelector(selector);
  const PAUSE = 1400; // milliseconds at a hop while it plays
  const GLIDE = 450; // from hop to hop
  const still = matchMedia("(prefers-reduced-motion: reduce)");
  const packet = one(".packet"), picture = one(".picture"), list = one(".list"), svg = one(".picture > svg");
  const hops = new Map();
  for (const hop of all("article")) {
    const way = hop.dataset.way;
    hops.set(way, [...(hops.get(way) || []), hop]);
  }
  let way = "1", step = 1, timer = 0, frame = 0;

  const current = () => hops.get(way)[step - 1];
  const hash = () => `#${way}-${step}`;
  const count = () => hops.get(way).length;
  const mark = (element, is) => is ? element.setAttribute("aria-current", "step") : element.removeAttribute("aria-current");

  function show(toWay, toStep) {
    if (!hops.has(toWay)) return;
    const from = { way, step };
    way = toWay;
    step = Math.min(Math.max(toStep, 1), count());
    for (const hop of all("article")) hop.hidden = hop !== current();
    for (const steps of all(".steps")) steps.hidden = steps.dataset.way !== way;
    for (const tab of all(".tab")) tab.setAttribute("aria-pressed", tab.dataset.way === way);
    for (const link of all(".steps a")) mark(link, link.hash === "#" + current().id);
    for (const drawn of all(".way")) drawn.classList.toggle("on", drawn.dataset.way === way);
    for (const leg of all(".way.on .leg")) leg.classList.toggle("done", leg.dataset.step <= step);
    for (const button of all("[data-go]")) {
      const end = { first: 1, back: 1, forward: count(), last: count() }[button.dataset.go];
      button.setAttribute("aria-disabled", step === end);
    }
    one(".count").textContent = `${step} / ${count()}`;
    one(".said").textContent = `Hop ${step} of ${count()}: ${current().querySelector("h2").textContent}`;
    one(".hops").scrollTop = 0;
    if (location.hash !== hash()) history.replaceState(null, "", hash());
    reveal(list, one(".steps a[aria-current]"));
    move(from);
  }

  // --- the picture ---

  function place(x, y) {
    packet.setAttribute("transform", `translate(${x} ${y})`);
  }

  function move(from) {
    cancelAnimationFrame(frame);
    packet.classList.toggle("away", !current().dataset.at);
    packet.classList.toggle("back", "back" in current().dataset);
    if (!current().dataset.at) return;
    const [x, y] = current().dataset.at.split(" ").map(Number);
    const forward = step === from.step + 1;
    const leg = from.way === way && Math.abs(step - from.step) === 1 &&
      one(`.way.on .leg[data-step="${Math.max(step, from.step)}"]`);
    look(x, y);
    if (!leg || still.matches) return place(x, y);
    const length = leg.getTotalLength(), begin = performance.now();
    const glide = (now) => {
      const part = Math.min(1, Math.max(0, now - begin) / GLIDE);
      const eased = part * part * (3 - 2 * part);
      const at = leg.getPointAtLength(length * (forward ? eased : 1 - eased));
      place(at.x, at.y);
      if (part < 1) frame = requestAnimationFrame(glide);
      else place(x, y);
    };
    frame = requestAnimationFrame(glide);
  }

  function look(x, y) { // where the picture is larger than its frame, bring the packet into view
    const scale = svg.getBoundingClientRect().width / svg.viewBox.baseVal.width;
    const left = (x - svg.viewBox.baseVal.x) * scale - picture.clientWidth / 2;
    const top = (y - svg.viewBox.baseVal.y) * scale - picture.clientHeight / 2;
    picture.scrollTo({ left, top, behavior: still.matches ? "auto" : "smooth" });
  }

  function reveal(box, element) {
    if (!element || box.scrollHeight <= box.clientHeight) return;
    const outer = box.getBoundingClientRect(), inner = element.getBoundingClientRect();
    if (inner.top < outer.top + 40) box.scrollTop += inner.top - outer.top - 40;
    else if (inner.bottom > outer.bottom - 40) box.scrollTop += inner.bottom - outer.bottom + 40;
  }

  // --- what the user does ---

  function play(is) {
    clearInterval(timer);
    timer = 0;
    if (is) {
      show(way, step === count() ? 1 : step + 1);
      timer = setInterval(() => step < count() ? show(way, step + 1) : play(false), PAUSE);
    }
    const button = one("[data-go=play]");
    button.setAttribute("aria-label", is ? "pause" : "play");
    button.classList.toggle("playing", is);
  }

  const go = {
    first: () => show(way, 1),
    back: () => show(way, step - 1),
    forward: () => show(way, step + 1),
    last: () => show(way, count()),
    play: () => play(!timer),
  };
  const keys = { Home: "first", ArrowLeft: "back", ArrowRight: "forward", End: "last", " ": "play" };

  document.addEventListener("keydown", (event) => {
    const name = keys[event.key];
    if (!name || event.ctrlKey || event.altKey || event.metaKey || event.shiftKey) return;
    if (event.key === " " && event.target.closest("button, a, summary")) return; // it presses what has the focus
    event.preventDefault();
    if (name !== "play") play(false);
    go[name]();
  });
  document.addEventListener("click", (event) => {
    const button = event.target.closest("[data-go], .tab"), link = event.target.closest(".steps a");
    const pill = event.target.closest(".pill");
    if (button?.dataset.go) {
      if (button.dataset.go !== "play") play(false);
      go[button.dataset.go]();
    } else if (button) {
      play(false);
      show(button.dataset.way, 1);
    } else if (pill) { // the hops there, one after the other
      const steps = pill.dataset.steps.split(" ").map(Number);
      play(false);
      show(way, steps.find((at) => at > step && steps.includes(step)) || steps[0]);
    } else if (link) {
      event.preventDefault();
      play(false);
      showHash(link.hash);
    }
  });

  function showHash(hash) {
    const found = /^#(?:hop-)?(\d+)-(\d+)$/.exec(hash);
    if (found) show(found[1], Number(found[2]));
    return Boolean(found);
  }
  addEventListener("hashchange", () => showHash(location.hash));

  if (!hops.size) return;
  document.documentElement.classList.add("stepping");
  one(".controls").hidden = false;
  const asked = location.hash;
  show("1", 1);
  showHash(asked);
})();
