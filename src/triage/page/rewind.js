
// ---- the page of the past: a window, and a moment in it ----

const POLL = 500, SETTLE = 60, TICK = 250;

// The window as it was answered last, and the place of the step that is shown.
let shown = null, place = 0, settled = false, playing = null;

const query = () => new URLSearchParams(location.search);
const steps = () => list(shown?.timeline?.at_unix_seconds);
const at = (index) => new Date(1000 * steps()[index]);
const stamp = (date) => date.toISOString().replace('.000Z', 'Z');
const note = (words, failed) => { text($('window-note'), words); $('window-note').classList.toggle('is-bad', Boolean(failed)); };

/* The address carries the window and the moment, so that it can be pasted into a chat. */
function carry(moment) {
  const parts = new URLSearchParams();
  for (const name of ['from', 'to', 'meeting']) if (shown[name]) parts.set(name, shown[name]);
  if (moment) parts.set('at', moment);
  history.replaceState(null, '', `?${parts}`);
}

// ---- the strip: the degraded share of each region over the window ----

const STRIP = 1000;

function share(region, top) {
  const { sessions, sessions_degraded: bad } = region, last = Math.max(1, steps().length - 1);
  let path = `M0,${HEIGHT}`;
  sessions.forEach((count, index) => {
    const ratio = count > 0 ? bad[index] / count : 0;
    path += `L${(STRIP * index / last).toFixed(1)},${(HEIGHT * (1 - Math.min(1, ratio / top))).toFixed(1)}`;
  });
  return `${path}L${STRIP},${HEIGHT}Z`;
}

function drawStrip() {
  const regions = list(shown.timeline.regions);
  const ratios = regions.flatMap((region) => region.sessions.map((count, index) => count > 0 ? region.sessions_degraded[index] / count : 0));
  const top = Math.max(0.25, ...ratios.slice(0, 50_000));
  const rows = $('shares');
  while (rows.children.length > regions.length) rows.lastElementChild.remove();
  regions.forEach((region, index) => {
    let row = rows.children[index];
    if (!row) {
      row = make('div');
      const svg = chart(['spell', 'area', 'cursor']);
      svg.setAttribute('viewBox', `0 0 ${STRIP} ${HEIGHT}`);
      row.append(make('span'), svg);
      rows.append(row);
    }
    const [name, svg] = row.children;
    text(name, String(region.region));
    const most = Math.max(0, ...ratios.slice(index * region.sessions.length, (index + 1) * region.sessions.length));
    draw(svg, [spells(), share(region, top), ''], `degraded share in ${region.region} over the window, at most ${percent(most)}`);
  });
  drawCursor();
}

/* When the verdict was bad: from each beginning to its end, or to the last step. */
function spells() {
  const moments = steps(), first = moments[0], length = Math.max(1, moments[moments.length - 1] - first);
  const x = (seconds) => (STRIP * (seconds - first) / length).toFixed(1);
  let path = '', began = null;
  for (const verdict of list(shown.timeline.verdicts)) {
    if (verdict.bad) began = verdict.at_unix_seconds;
    else if (began !== null) { path += `M${x(began)},0V${HEIGHT}H${x(verdict.at_unix_seconds)}V0Z`; began = null; }
  }
  return began === null ? path : `${path}M${x(began)},0V${HEIGHT}H${STRIP}V0Z`;
}

function drawCursor() {
  const x = (STRIP * place / Math.max(1, steps().length - 1)).toFixed(1);
  for (const row of $('shares').children) attribute(row.lastElementChild.lastElementChild, 'd', `M${x},0V${HEIGHT}`);
}

function listVerdicts() {
  rows($('verdicts'), list(shown.timeline.verdicts), (verdict) => String(verdict.at), (verdict) => {
    const item = make('li'), button = make('button', 'link');
    button.type = 'button';
    button.addEventListener('click', () => { stop(); goTo(steps().findIndex((seconds) => seconds >= verdict.at_unix_seconds)); });
    item.append(button);
    return item;
  }, (item, verdict) => {
    const button = item.firstElementChild;
    text(button, `${clock(new Date(verdict.at)).slice(0, 8)} ${verdict.bad ? 'bad' : 'over'}`);
    attribute(button, 'title', String(verdict.sentence ?? 'no longer bad'));
  });
}

// ---- the window ----

async function openWindow() {
  const parts = query();
  if (!parts.get('from')) return;
  try {
    const asked = new URLSearchParams([...parts].filter(([name]) => name !== 'at'));
    shown = await ask(`api/window?${asked}`);
  } catch (error) {
    note(error instanceof TypeError ? 'rewind does not answer' : error.message, true);
    $('progress').hidden = true;
    // Without an answer it may come back; what it refused, it would refuse again.
    if (error instanceof TypeError) setTimeout(openWindow, 4 * POLL);
    return;
  }
  for (const [input, name] of [['from', 'from'], ['to', 'to'], ['only', 'meeting']]) {
    if (document.activeElement !== $(input)) $(input).value = shown[name] ?? '';
  }
  const underway = shown.state === 'waiting' || shown.state === 'folding';
  $('progress').hidden = !underway;
  $('progress').value = shown.progress;
  note(underway ? `${Math.round(shown.progress * 100)} %${shown.note && `, ${shown.note}`}` : shown.note, shown.state === 'failed');
  const moments = steps();
  $('strip').hidden = $('transport').hidden = moments.length === 0;
  if (moments.length > 0) {
    $('slider').max = moments.length - 1;
    const asked = Date.parse(parts.get('at') ?? '') / 1000;
    const first = Number.isNaN(asked) ? firstBad() : moments.findLastIndex((seconds) => seconds <= asked);
    // A moment that is not folded yet is waited for.
    if (!settled && first >= 0 && (!underway || !(asked > moments[moments.length - 1]))) { settled = true; goTo(first); }
    drawStrip();
    listVerdicts();
  }
  carry(settled ? stamp(at(place)) : parts.get('at'));
  if (underway) setTimeout(openWindow, POLL);
}

/* Who comes without a moment came for the trouble. */
function firstBad() {
  const bad = list(shown.timeline.verdicts).find((verdict) => verdict.bad);
  return bad ? steps().findIndex((seconds) => seconds >= bad.at_unix_seconds) : shown.state === 'folded' ? steps().length - 1 : -1;
}

// ---- a moment ----

let asking = false, again = false;

function goTo(index) {
  place = Math.max(0, Math.min(steps().length - 1, index));
  $('slider').value = place;
  attribute($('slider'), 'aria-valuetext', clock(at(place)));
  text($('moment'), `${stamp(at(place)).slice(0, 10)} ${clock(at(place))}`);
  drawCursor();
  load();
}

/* One question at a time: who drags the slider wants the last moment, not all on the way. */
async function load() {
  if (asking) { again = true; return; }
  asking = true;
  const time = stamp(at(place));
  moment = `?${new URLSearchParams({ from: shown.from, to: shown.to, ...(shown.meeting && { meeting: shown.meeting }), at: time })}`;
  try {
    const answer = await ask(`api/triage${moment}`);
    attribute($('json'), 'href', `api/triage${moment}`);
    show(answer);
    attribute(document.body, 'data-fresh', 'past');
    text($('fresh-word'), 'Past');
    text($('fresh-time'), `${time.slice(0, 10)} ${clock(new Date(answer.as_of))}`);
    text($('alarm'), '');
    carry(time);
  } catch (error) {
    text($('alarm'), `Old: ${error instanceof TypeError ? 'rewind does not answer' : error.message}.`);
  }
  loadSession();
  setTimeout(() => { asking = false; if (again) { again = false; load(); } }, SETTLE);
}

function stop() {
  clearInterval(playing);
  playing = null;
  text($('play'), 'Play');
  attribute($('play'), 'aria-pressed', 'false');
}

function play() {
  if (playing !== null) { stop(); return; }
  let exact = place;
  text($('play'), 'Pause');
  attribute($('play'), 'aria-pressed', 'true');
  playing = setInterval(() => {
    exact += Number($('speed').value) * TICK / 1000 / shown.step_seconds;
    if (Math.floor(exact) > place) goTo(Math.floor(exact));
    if (place >= steps().length - 1) stop();
  }, TICK);
}

$('slider').addEventListener('input', () => { stop(); goTo(Number($('slider').value)); });
$('play').addEventListener('click', play);
$('window').addEventListener('submit', (event) => {
  event.preventDefault();
  const asked = new URLSearchParams({ from: $('from').value, to: $('to').value });
  if ($('only').value) asked.set('meeting', $('only').value);
  stop();
  shown = null; place = 0; settled = false;
  history.pushState(null, '', `?${asked}`);
  note('');
  openWindow();
});
addEventListener('popstate', () => location.reload());
addEventListener('keydown', (event) => {
  if (steps().length === 0 || event.altKey || event.ctrlKey || event.metaKey || $('drill').open) return;
  if (event.target.matches('input:not([type=range]), select')) return;
  // Space presses a button.
  if (event.key === ' ' && event.target.matches('button, a')) return;
  const by = event.shiftKey ? Math.round(60 / shown.step_seconds) : 1;
  const moves = { ArrowLeft: place - by, ArrowRight: place + by, Home: 0, End: steps().length - 1 };
  if (event.key === ' ') play();
  else if (event.key in moves) { stop(); goTo(moves[event.key]); }
  else return;
  event.preventDefault();
});

async function begin() {
  try {
    const all = await ask('api/windows');
    if (all.live_url) { $('live').href = all.live_url; $('live').hidden = false; }
    if (!query().get('from')) {
      const window = all.first ?? ['30m ago', 'now'];
      [$('from').value, $('to').value] = window;
      text($('fresh-word'), 'Past');
      if (!all.first) { text($('sentence'), 'Choose a window'); return; }
      history.replaceState(null, '', `?${new URLSearchParams({ from: window[0], to: window[1] })}`);
    }
    text($('sentence'), 'The window is being folded');
  } catch (error) {
    note(error.message, true);
  }
  openWindow();
}
begin();
