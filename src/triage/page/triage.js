
'use strict';
// Everything that is shown comes from clients, by way of the exporter: it is set as text, never as markup.

const ANSWER_WITHIN = 5000, ANNOUNCE_AGAIN = 30000;
const WORDS = { bad: 'bad', watch: 'watch', silent: 'silent', good: 'good', idle: 'no calls', unknown: 'can\'t tell' };
const NOT_READY = { starting: 'starts', catching_up: 'late', behind: 'late' };
const SIGNALS = { rtt: 'RTT', audio: 'audio', video: 'video', join: 'joins', uplink: 'uplinks' };
const CAUSES = { network: 'Network', uplink: 'Uplink', processor: 'Processor', client: 'Client', unclear: 'Unclear' };
const LIMITED = { cpu: 'processor', bandwidth: 'bandwidth', other: 'something else' };
const LOSSY = 0.02, CLIENTS = 4;
const FILL = { bad: 'b3141c', watch: 'b26a00', silent: 'b26a00', good: '146c38', idle: '5a6474', unknown: '5a6474' };

const $ = (id) => document.getElementById(id);
const text = (element, value) => { if (element.textContent !== value) element.textContent = value; };
const attribute = (element, name, value) => { if (element.getAttribute(name) !== value) element.setAttribute(name, value); };
const list = (value) => Array.isArray(value) ? value : [];
const isNumber = (value) => typeof value === 'number' && Number.isFinite(value);

function make(tag, className, content) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (content !== undefined) element.textContent = content;
  return element;
}

// ---- numbers as people read them ----

const whole = (value) => isNumber(value) ? Math.round(value).toLocaleString('en') : '–';
const milliseconds = (value) => isNumber(value) ? `${Math.round(value).toLocaleString('en')} ms` : '–';
function percent(ratio) {
  if (!isNumber(ratio)) return '–';
  const value = ratio * 100;
  return value === 0 || value >= 9.95 ? `${value.toFixed(0)} %` : `${value.toFixed(1)} %`;
}
function lasting(seconds) {
  const s = Math.max(0, Math.round(seconds)), m = Math.floor(s / 60), h = Math.floor(m / 60);
  if (h > 0) return `${h} h ${m % 60} min`;
  return m > 0 ? `${m} min ${s % 60} s` : `${s} s`;
}
function age(seconds) {
  if (!isNumber(seconds)) return '–';
  if (seconds < 9.95) return `${seconds.toFixed(1)} s`;
  return seconds < 100 ? `${Math.round(seconds)} s` : seconds < 6000 ? `${Math.round(seconds / 60)} min` : `${Math.round(seconds / 3600)} h`;
}
const bitrate = (kbps) => !isNumber(kbps) ? '–' : kbps < 995 ? `${Math.round(kbps)} kbit/s` : `${(kbps / 1000).toFixed(1)} Mbit/s`;
const picture = (height, rate) => [isNumber(height) ? `${whole(height)}p` : '', isNumber(rate) ? `${whole(rate)}/s` : ''].filter(Boolean).join(' ') || '–';
const clock = (date) => Number.isNaN(date.getTime()) ? '–' : `${date.toISOString().slice(11, 19)} UTC`;
const host = (url) => {
  const name = String(url ?? '').replace(/^[a-z]+:\/\//, '');
  return name === 'none' ? '(no server)' : name === 'other' ? '(others)' : name;
};

// ---- tables: rows are kept by key, so that neither focus nor selection is lost ----

function rows(body, items, keyOf, create, update, empty) {
  const known = new Map();
  for (const row of [...body.children]) {
    if (row.dataset.key === undefined) row.remove(); else known.set(row.dataset.key, row);
  }
  let at = body.firstElementChild;
  for (const item of items) {
    const key = keyOf(item);
    let row = known.get(key);
    if (row) known.delete(key);
    else { row = create(item); row.dataset.key = key; }
    if (row === at) at = at.nextElementSibling; else body.insertBefore(row, at);
    update(row, item);
  }
  for (const row of known.values()) row.remove();
  if (items.length === 0 && empty) {
    const row = make('tr'), cell = make('td', 'empty', empty);
    cell.colSpan = body.parentElement.tHead.rows[0].cells.length;
    row.append(cell);
    body.append(row);
  }
}

function cells(count, classes) {
  const row = make('tr'), first = make('th');
  first.scope = 'row';
  row.append(first);
  for (let index = 1; index < count; index++) row.append(make('td', classes[index]));
  return row;
}

const put = (row, index, value, titled) => {
  const cell = row.cells[index];
  text(cell, value);
  if (titled) attribute(cell, 'title', value);
};
const count = (row, index, value, bad) => {
  put(row, index, whole(value));
  row.cells[index].classList.toggle('zero', !value);
  row.cells[index].classList.toggle('strong', Boolean(bad && value));
};
const marked = (row, index, value, bad) => { put(row, index, value); row.cells[index].classList.toggle('strong', Boolean(bad)); };

// ---- charts ----

const SVG = 'http://www.w3.org/2000/svg', WIDTH = 200, HEIGHT = 40;

function chart(classes) {
  const svg = document.createElementNS(SVG, 'svg');
  svg.setAttribute('viewBox', `0 0 ${WIDTH} ${HEIGHT}`);
  svg.setAttribute('preserveAspectRatio', 'none');
  svg.setAttribute('role', 'img');
  for (const name of classes) {
    const path = document.createElementNS(SVG, 'path');
    path.setAttribute('class', name);
    svg.append(path);
  }
  return svg;
}

const height = (value, top) => (HEIGHT - 1 - (HEIGHT - 3) * Math.min(1, value / top)).toFixed(1);

function line(values, moments, span, top, filled) {
  let path = '', first = null, last = null;
  values.forEach((value, index) => {
    // Looks come a little late, so that the first of them may be older than the span.
    if (moments[index] < span.end - span.length) return;
    if (!isNumber(value)) { if (filled && last !== null) path += `V${HEIGHT - 1}`; last = null; return; }
    const x = (WIDTH * (1 - (span.end - moments[index]) / span.length)).toFixed(1);
    if (last === null && filled) path += `M${x},${HEIGHT - 1}L${x},${height(value, top)}`;
    else path += `${last === null ? 'M' : 'L'}${x},${height(value, top)}`;
    if (last === null && !filled) path += 'h0.1';
    first ??= x; last = x;
  });
  if (filled && last !== null) path += `V${HEIGHT - 1}Z`;
  return path;
}

const across = (value, top) => `M0,${height(value, top)}H${WIDTH}`;
const draw = (svg, paths, label) => {
  paths.forEach((path, index) => attribute(svg.children[index], 'd', path));
  attribute(svg, 'aria-label', label);
};
const extent = (values, show) => {
  const known = values.filter(isNumber);
  return known.length === 0 ? 'nothing yet' : `now ${show(known[known.length - 1])}, from ${show(Math.min(...known))} to ${show(Math.max(...known))}`;
};

// ---- what is shown ----

// The regions of which nothing current is known: what is shown of them is old.
let lost = new Set();
const old = (row, region) => row.classList.toggle('old', lost.has(String(region)));

function showVerdict(answer) {
  const verdict = answer.verdict, state = WORDS[verdict.state] ? verdict.state : 'unknown';
  attribute(document.body, 'data-state', state);
  attribute($('verdict'), 'data-state', state);
  text($('sentence'), String(verdict.sentence));
  const evidence = String(verdict.evidence), cause = CAUSES[verdict.cause] ?? '';
  const reason = cause !== '' && evidence.startsWith(`${cause}: `) ? evidence.slice(cause.length + 2) : evidence;
  text($('cause'), cause);
  text($('reason'), reason.charAt(0).toUpperCase() + reason.slice(1));
  const since = Date.parse(verdict.since), now = Date.parse(answer.as_of);
  text($('lasting'), Number.isNaN(since) ? '' : `${verdict.since_before ? 'more than ' : 'for '}${lasting((now - since) / 1000)}`);
  const place = verdict.region ? ` in ${verdict.region}` : '';
  document.title = `${WORDS[state]}${place} · Callsight`;
  attribute($('icon'), 'href', `data:image/svg+xml,%3Csvg xmlns='${SVG}' viewBox='0 0 8 8'%3E%3Ccircle cx='4' cy='4' r='4' fill='%23${FILL[state]}'/%3E%3C/svg%3E`);
  announce([state, verdict.region, verdict.server_url, list(verdict.signals).join(), cause].join(), `${verdict.sentence}${cause && `. Cause: ${cause}`}`);
}

// A reader is told when the verdict becomes another, not each time that a number in it moves.
let announced = '', announcedAt = 0;
function announce(kind, sentence) {
  const now = performance.now();
  if (kind === announced && (now - announcedAt < ANNOUNCE_AGAIN || !sentence.startsWith('Bad'))) return;
  announced = kind;
  announcedAt = now;
  text($('announcer'), sentence);
}

function tile(id, value, note, over) {
  const element = $(id), [first, second] = element.querySelectorAll('dd');
  text(first, value);
  text(second, note);
  attribute(second, 'title', note);
  element.classList.toggle('over', Boolean(over));
}

/* What is lost of what is received and of what is sent, in the last minute. */
function losses(people) {
  const known = [['audio', people.audio_packets_lost_ratio], ['video', people.video_packets_lost_ratio], ['sent', people.sent_packets_lost_ratio]]
    .filter(([, ratio]) => isNumber(ratio));
  return { most: known.length === 0 ? null : Math.max(...known.map(([, ratio]) => ratio)), each: known.map(([what, ratio]) => `${what} ${percent(ratio)}`).join(' · ') };
}

const meetings = (count) => `in ${whole(count)} ${count === 1 ? 'meeting' : 'meetings'}`;

function showNumbers(answer) {
  const all = answer.all, by = all.sessions_degraded_by, limit = answer.rtt_limit_ms;
  tile('tile-sessions', whole(all.sessions), by.join > 0 ? `${whole(by.join)} can't join` : meetings(all.meetings));
  const hit = isNumber(all.meetings_degraded) ? ` ${meetings(all.meetings_degraded)}` : '';
  tile('tile-degraded', percent(all.sessions_degraded_ratio), `${whole(all.sessions_degraded)}${hit}`);
  $('tile-degraded').classList.toggle('bad', answer.verdict.state === 'bad');
  $('numbers').classList.toggle('old', lost.size > 0);
  tile('tile-rtt', milliseconds(all.rtt_p95_ms), `p50 ${milliseconds(all.rtt_p50_ms)} · ${whole(by.rtt)} bad`, all.rtt_p95_ms > limit);
  const loss = losses(all);
  tile('tile-lost', percent(loss.most), loss.each || 'last minute', loss.most >= LOSSY);
  tile('tile-audio', percent(all.audio_concealed_ratio), `${whole(by.audio)} bad · expand ${percent(all.neteq_expand_ratio)}`, all.audio_concealed_ratio > answer.audio_concealed_limit_ratio);
  tile('tile-video', isNumber(all.video_freezes_per_minute) ? `${whole(all.video_freezes_per_minute)}/min` : '–', `${whole(by.video)} bad`);
  tile('tile-limited', whole(all.sessions_limited.cpu), `bandwidth limits ${whole(all.sessions_limited.bandwidth)}`);
  tile('tile-hidden', whole(all.sessions_hidden), 'not judged');
}

function mark(cell) {
  const place = make('span', 'place'), sign = make('span', 'mark'), label = make('span');
  sign.setAttribute('aria-hidden', 'true');
  label.append(make('span'), make('span', 'unseen'), make('small'));
  place.append(sign, label);
  cell.append(place);
}
function remark(cell, state, name, note = '') {
  const [sign, label] = cell.firstElementChild.children;
  attribute(sign, 'data-state', WORDS[state] ? state : 'unknown');
  text(label.children[0], name);
  text(label.children[1], `: ${WORDS[state] ?? WORDS.unknown}`);
  text(label.children[2], note);
}

/* The cause of a bad place; readers of screens are told its evidence, others see it as a title. */
const because = (cell) => cell.append(make('span'), make('span', 'unseen'));
function blame(cell, place) {
  text(cell.children[0], place.cause ? (CAUSES[place.cause] ?? String(place.cause)).toLowerCase() : '–');
  text(cell.children[1], place.evidence ? `: ${place.evidence}` : '');
  attribute(cell, 'title', String(place.evidence ?? ''));
  cell.classList.toggle('zero', !place.cause);
}

function createRegion() {
  const row = cells(15, { 2: 'cause', 3: 'number', 4: 'number', 5: 'number', 6: 'number', 7: 'number', 8: 'number', 9: 'number', 10: 'chart', 11: 'chart', 12: 'chart', 13: 'number', 14: 'number' });
  mark(row.cells[0]);
  because(row.cells[2]);
  const share = make('span', 'share'), bar = make('span', 'bar');
  bar.append(make('i'));
  bar.setAttribute('aria-hidden', 'true');
  share.append(make('b'), bar, make('span', 'quiet'));
  row.cells[1].append(share);
  row.cells[10].append(chart(['limit', 'thin', 'line']));
  row.cells[11].append(chart(['base', 'area', 'line']));
  row.cells[12].append(chart(['base', 'area', 'line']));
  return row;
}

function showRegions(answer) {
  const history = answer.history, moments = list(history.at_unix_seconds);
  const span = { end: moments[moments.length - 1] ?? 0, length: 60 * history.step_seconds };
  const past = new Map(list(history.regions).map((region) => [region.region, region]));
  const every = [...past.values()];
  const most = (values) => Math.max(0, ...values.filter(isNumber));
  const limit = answer.rtt_limit_ms;
  const topRtt = Math.max(limit * 1.15, most(every.flatMap((region) => list(region.rtt_p95_ms))));
  const shares = (region) => list(region?.sessions).map((sessions, index) => sessions === null ? null : sessions > 0 ? region.sessions_degraded[index] / sessions : 0);
  const topShare = Math.max(0.25, most(every.flatMap(shares)));
  rows($('regions').querySelector('tbody'), list(answer.regions), (region) => String(region.region), createRegion, (row, region) => {
    remark(row.cells[0], region.state, String(region.region), region.since ? `since ${clock(new Date(region.since)).slice(0, 8)}` : '');
    attribute(row, 'data-state', region.state);
    old(row, region.region);
    attribute(row.cells[0], 'title', String(region.why ?? WORDS[region.state] ?? ''));
    const [share, bar, of] = row.cells[1].firstElementChild.children;
    text(share, percent(region.sessions_degraded_ratio));
    bar.firstElementChild.style.width = `${Math.min(100, 100 * region.sessions_degraded_ratio)}%`;
    text(of, `${whole(region.sessions_degraded)} of ${whole(region.sessions)}`);
    const by = region.sessions_degraded_by;
    Object.keys(SIGNALS).forEach((signal, index) => count(row, 3 + index, by[signal], region.state === 'bad' && by[signal] * 3 >= region.sessions_degraded));
    blame(row.cells[2], region);
    marked(row, 8, milliseconds(region.rtt_p50_ms), region.rtt_p50_ms > limit);
    marked(row, 9, milliseconds(region.rtt_p95_ms), region.rtt_p95_ms > limit);
    const before = past.get(region.region);
    const p95 = list(before?.rtt_p95_ms), p50 = list(before?.rtt_p50_ms), bad = shares(before), sessions = list(before?.sessions);
    draw(row.cells[10].firstElementChild, [across(limit, topRtt), line(p50, moments, span, topRtt), line(p95, moments, span, topRtt)],
      `RTT p95 in the last five minutes: ${extent(p95, milliseconds)}; p50 ${extent(p50, milliseconds)}`);
    draw(row.cells[11].firstElementChild, [across(0, 1), line(bad, moments, span, topShare, true), line(bad, moments, span, topShare)],
      `degraded share in the last five minutes: ${extent(bad, percent)}`);
    const topSessions = Math.max(1, most(sessions) * 1.05);
    draw(row.cells[12].firstElementChild, [across(0, 1), line(sessions, moments, span, topSessions, true), line(sessions, moments, span, topSessions)],
      `sessions in the last five minutes: ${extent(sessions, whole)}`);
    const loss = losses(region);
    marked(row, 13, percent(loss.most), loss.most >= LOSSY);
    attribute(row.cells[13], 'title', loss.each);
    marked(row, 14, percent(region.audio_concealed_ratio), region.audio_concealed_ratio > answer.audio_concealed_limit_ratio);
  }, 'No regions');
}

function showServers(answer) {
  const servers = list(answer.servers);
  text($('servers-more'), answer.servers_total > servers.length ? `worst ${servers.length} of ${answer.servers_total}` : '');
  rows($('servers').querySelector('tbody'), servers, (server) => JSON.stringify([server.region, server.server_url, server.server_type]), () => {
    const row = cells(6, { 3: 'number', 4: 'cause', 5: 'number' });
    mark(row.cells[0]);
    because(row.cells[4]);
    return row;
  }, (row, server) => {
    remark(row.cells[0], server.state, host(server.server_url));
    attribute(row.cells[0], 'title', String(server.server_url));
    old(row, server.region);
    put(row, 1, String(server.region));
    put(row, 2, String(server.server_type), true);
    put(row, 3, `${whole(server.sessions_degraded)} of ${whole(server.sessions)}`);
    row.cells[3].classList.toggle('strong', server.state === 'bad');
    blame(row.cells[4], server);
    marked(row, 5, milliseconds(server.rtt_p95_ms), server.rtt_p95_ms > answer.rtt_limit_ms);
  }, 'No sessions on any server');
}

/* Releases are worth a table only if there are several to compare, or one stands out. */
function showClients(answer) {
  const clients = list(answer.all.clients), outlier = answer.client_outlier;
  const named = clients.filter((client) => client.app !== 'none' || client.platform !== 'none');
  const share = (client) => client.sessions > 0 ? client.sessions_degraded / client.sessions : 0;
  const stands = (client) => Boolean(outlier) && [client.app, client.platform].includes(outlier);
  $('clients').hidden = named.length < 2 && !named.some(stands);
  const worst = [...clients].sort((a, b) => stands(b) - stands(a) || b.sessions_degraded - a.sessions_degraded || b.sessions - a.sessions).slice(0, CLIENTS);
  const more = clients.length > worst.length ? `worst ${worst.length} of ${clients.length}` : '';
  text($('clients-more'), [outlier ? `${outlier} stands out` : '', more].filter(Boolean).join(', '));
  const word = (name) => name === 'none' ? 'not told' : name === 'other' ? '(others)' : String(name);
  rows($('clients').querySelector('tbody'), worst, (client) => JSON.stringify([client.app, client.platform]), () => cells(5, { 2: 'number', 3: 'number', 4: 'number' }), (row, client) => {
    put(row, 0, word(client.app), true);
    put(row, 1, word(client.platform));
    put(row, 2, whole(client.sessions));
    count(row, 3, client.sessions_degraded, stands(client));
    marked(row, 4, percent(share(client)), stands(client));
  }, 'No sessions');
}

const wrongs = (session) => session.tab_hidden ? 'tab hidden' : list(session.degraded_by).map((signal) => SIGNALS[signal] ?? String(signal)).join(', ') || '–';

const joined = (parts, between) => parts.filter((part) => part !== null && part !== undefined && part !== '').map(String).join(between) || '–';
const release = (session) => joined([session.app, session.platform], ' ');
const route = (session) => joined([session.candidate_type, session.protocol], ' ');

function opener(cell, id) {
  const button = make('button', 'open id');
  button.type = 'button';
  button.addEventListener('click', () => openSession(button.dataset.session));
  cell.append(button);
  reopen(cell, id);
}
function reopen(cell, id) {
  const button = cell.firstElementChild;
  text(button, id);
  button.dataset.session = id;
  attribute(button, 'title', id);
}

function showWorst(answer) {
  const section = $('worst'), body = section.querySelector('tbody');
  let sessions = list(answer.worst_sessions);
  const held = $('drill').open || (document.activeElement !== section && section.contains(document.activeElement)) || body.matches(':hover');
  // While somebody is at the list it keeps its order: nothing may slip from under a finger.
  const latest = new Map(sessions.map((session) => [String(session.session_id), session]));
  for (const row of body.children) row.classList.remove('gone');
  if (held && body.querySelector('[data-key]')) {
    sessions = [...body.children].filter((row) => row.dataset.key !== undefined).map((row) => {
      const session = latest.get(row.dataset.key);
      if (!session) row.classList.add('gone');
      return session ?? { session_id: row.dataset.key, kept: true };
    });
  }
  const note = answer.detail === 'off' ? 'detail is off' : held && latest.size > 0 ? 'order kept while you point at it' : '';
  text($('worst-note'), note);
  rows(body, sessions, (session) => String(session.session_id), (session) => {
    const row = cells(9, { 1: 'id', 5: 'number', 6: 'number', 7: 'number' });
    opener(row.cells[0], String(session.session_id));
    return row;
  }, (row, session) => {
    if (session.kept) return;
    reopen(row.cells[0], String(session.session_id));
    old(row, session.region);
    put(row, 1, String(session.meeting_id), true);
    put(row, 2, String(session.region));
    put(row, 3, release(session), true);
    put(row, 4, route(session), true);
    marked(row, 5, milliseconds(session.rtt_ms), session.rtt_ms > answer.rtt_limit_ms);
    marked(row, 6, percent(session.sent_packets_lost_ratio), session.sent_packets_lost_ratio > answer.packets_lost_limit_ratio);
    marked(row, 7, percent(session.audio_concealed_ratio), session.audio_concealed_ratio > answer.audio_concealed_limit_ratio);
    put(row, 8, wrongs(session), true);
    attribute(row, 'title', `${session.meeting_sessions_degraded} of ${session.meeting_sessions} sessions of the meeting are degraded`);
  }, answer.detail === 'off' ? 'Sessions have no detail here: the exporter runs with --detail off.' : 'No sessions');
}

function showPipeline(answer) {
  const pipeline = answer.pipeline, word = $('pipeline-word'), regions = list(pipeline.regions);
  const sum = (field) => regions.reduce((total, region) => total + (region[field] || 0), 0);
  const rejected = sum('rejected_last_minute'), lost = sum('dead_letters_lost_total');
  const refused = new Map();
  for (const region of regions) {
    const add = (counts, what) => Object.entries(counts ?? {}).forEach(([why, much]) => refused.set(what + why, (refused.get(what + why) ?? 0) + much));
    add(region.frames_refused_last_minute, 'frames ');
    add(region.refused_last_minute, '');
  }
  const warned = regions.some((region) => region.warning) || rejected > 0 || refused.size > 0 || lost > 0;
  word.className = 'word';
  attribute(word, 'data-state', !pipeline.ready ? 'bad' : warned ? 'watch' : 'good');
  text(word, !pipeline.ready ? '✕ not ready' : warned ? '! ready, with warnings' : '✓ ready');
  // Several regions often have the same trouble.
  const notes = new Map();
  for (const region of regions) {
    for (const note of [region.ready ? null : region.why, region.warning]) {
      if (!note) continue;
      const since = note === region.why ? region.since : undefined, other = notes.get(note) ?? { names: [], since };
      other.names.push(String(region.region));
      if (since < other.since) other.since = since;
      notes.set(note, other);
    }
  }
  rows($('notes'), [...notes], ([note]) => note, () => make('li'), (item, [note, { names, since }]) => {
    const line = `${names.join(', ')}${since ? ` since ${clock(new Date(since))}` : ''}: ${note}`;
    text(item, line);
    attribute(item, 'title', line);
  });
  rows($('pipeline').querySelector('tbody'), regions, (region) => String(region.region), () => cells(5, { 2: 'number', 3: 'number', 4: 'number' }), (row, region) => {
    put(row, 0, String(region.region));
    const mirror = isNumber(region.mirror_lag_seconds) ? `mirror ${region.mirror_lag_seconds.toFixed(1)} s` : '';
    put(row, 1, region.ready ? region.warning ? 'warns' : 'ready' : NOT_READY[region.reason] ?? 'lost');
    attribute(row.cells[1], 'title', [region.why, region.warning, mirror].filter(Boolean).join('; '));
    row.cells[1].classList.toggle('strong', !region.ready);
    marked(row, 2, age(region.lag_seconds), region.lag_seconds > 5);
    attribute(row.cells[2], 'title', `${whole(region.pending_frames)} frames pending`);
    put(row, 3, whole(region.frames_per_second));
    count(row, 4, region.rejected_last_minute, true);
    attribute(row.cells[4], 'title', `in the last minute; ${whole(region.rejected_total)} in total`);
  }, 'No regions');
  text($('series'), `${percent(pipeline.live_series / pipeline.max_series)} of ${whole(pipeline.max_series)}`);
  attribute($('series'), 'title', `${whole(pipeline.live_series)} live`);
  const counts = [...refused].map(([what, much]) => `${what} ${whole(much)}`).join(', ');
  text($('refused'), `${counts || 'nothing'}, 1 min`);
  $('refused').classList.toggle('is-bad', counts !== '');
  text($('letters'), `${whole(sum('dead_letters_total'))} stored, ${whole(lost)} lost`);
  $('letters').classList.toggle('is-bad', lost > 0);
}

function show(answer) {
  if (answer.version !== 1) throw new Error('the server is newer than this page: reload it');
  text($('deployment'), `${answer.deployment} · ${answer.callsight_version}`);
  const all = list(answer.regions);
  lost = new Set(all.filter((region) => region.state === 'unknown').map((region) => String(region.region)));
  limits = answer;
  known = lost.size === 0 ? 'live' : lost.size < all.length ? 'partly' : 'old';
  showVerdict(answer);
  showNumbers(answer);
  showRegions(answer);
  showServers(answer);
  showClients(answer);
  showWorst(answer);
  showPipeline(answer);
}

// ---- one session, and its meeting ----

let opened = null;
// The last answer: by its limits what a session tells is marked.
let limits = {};
// Whether what it shows is current in all regions (`live`), in some (`partly`), or in none (`old`).
let known = 'old';
// The query that names the moment which is shown; the present has none.
let moment = '';

function openSession(id) {
  opened = id;
  text($('drill-heading'), `Session ${id}`);
  text($('drill-problem'), 'Loading');
  for (const part of ['drill-facts', 'sends', 'findings']) $(part).replaceChildren();
  for (const heading of ['receives-heading', 'received-heading']) text($(heading).firstElementChild, '');
  for (const table of ['receives', 'received', 'meeting']) $(table).tBodies[0].replaceChildren();
  if (!$('drill').open) $('drill').showModal();
  loadSession();
}

async function loadSession() {
  const id = opened;
  if (id === null) return;
  try {
    const detail = await ask(`api/triage/session/${encodeURIComponent(id)}${moment}`);
    const meeting = await ask(`api/triage/meeting/${encodeURIComponent(detail.session.meeting_id)}${moment}`);
    if (opened !== id) return;
    const region = detail.session.region;
    text($('drill-problem'), lost.has(String(region)) ? `Can't tell for ${region} now: these are old numbers.` : '');
    showSession(detail, meeting);
  } catch (error) {
    if (opened === id) text($('drill-problem'), error.message);
  }
}

/* What a session does not ask for is not missed. */
const missed = (arrives, on, wanted) => on && wanted && arrives === false;

const flow = (arrives, on, wanted, word) => !on ? 'off' : !wanted ? 'not asked for'
  : arrives === true ? word : arrives === false ? `✕ not ${word}` : '–';

function showPairs(table, pairs, nameOf, empty) {
  const bad = pairs.filter((pair) => list(pair.degraded_by).length > 0).length, word = $(`${table}-heading`).firstElementChild;
  attribute(word, 'data-state', bad > 0 ? 'bad' : pairs.length > 0 ? 'good' : 'unknown');
  text(word, pairs.length === 0 ? '' : bad > 0 ? `✕ ${bad} of ${pairs.length} bad` : pairs.length === 1 ? '✓ the one is fine' : `✓ all ${pairs.length} are fine`);
  rows($(table).tBodies[0], pairs, (pair) => `${pair.session_id} ${pair.peer_id}`, () => cells(9, { 1: 'number', 3: 'number', 4: 'number', 6: 'number', 7: 'number', 8: 'number' }), (row, pair) => {
    put(row, 0, nameOf(pair), true);
    row.cells[0].className = 'id';
    const audio = [pair.hears, pair.peer_microphone_on, pair.audio_wanted];
    const video = [pair.sees, pair.peer_camera_on, pair.video_wanted];
    marked(row, 1, percent(pair.packets_lost_ratio), pair.packets_lost_ratio > limits.packets_lost_limit_ratio);
    marked(row, 2, flow(...audio, 'heard'), missed(...audio));
    marked(row, 3, percent(pair.audio_concealed_ratio), list(pair.degraded_by).includes('audio') && pair.hears !== false);
    put(row, 4, milliseconds(pair.audio_buffer_ms));
    attribute(row.cells[4], 'title', `NetEQ target: ${milliseconds(pair.audio_target_ms)}`);
    marked(row, 5, flow(...video, 'seen'), missed(...video));
    put(row, 6, pair.peer_camera_on && pair.video_wanted ? picture(pair.video_height, pair.video_frames_per_second) : '–');
    put(row, 7, whole(pair.video_freezes_total));
    put(row, 8, picture(null, pair.screen_frames_per_second));
  }, empty);
}

/* Facts: a name, a value, and whether it is bad. */
function showFacts(id, facts) {
  const parts = facts.map(([name, value, bad]) => {
    const part = make('div');
    part.append(make('dt', '', name), make('dd', bad ? 'is-bad' : '', String(value)));
    return part;
  });
  $(id).replaceChildren(...parts);
}

function showSession(detail, meeting) {
  const session = detail.session, sends = detail.sends ?? {}, findings = list(detail.findings);
  rows($('findings'), [...findings.entries()], ([index]) => String(index), () => make('li'), (item, [, finding]) => text(item, String(finding)));
  showFacts('drill-facts', [
    ['Participant', session.participant_id], ['Meeting', session.meeting_id], ['Region', session.region],
    ['Server', `${host(session.server_url)} (${session.server_type})`], ['Client', release(session)], ['Path', route(session)],
    ['RTT', milliseconds(session.rtt_ms), session.rtt_ms > limits.rtt_limit_ms],
    ['Bad', session.tab_hidden ? 'not judged: tab hidden' : wrongs(session), list(session.degraded_by).length > 0],
    ['Microphone', session.microphone_on === null ? '–' : session.microphone_on ? 'on' : 'off'],
    ['Camera', session.camera_on === null ? '–' : session.camera_on ? 'on' : 'off'],
    ['Last frame', isNumber(session.last_frame_age_seconds) ? `${session.last_frame_age_seconds.toFixed(0)} s ago` : '–'],
  ]);
  showFacts('sends', [
    ['Lost', percent(session.sent_packets_lost_ratio), session.sent_packets_lost_ratio > limits.packets_lost_limit_ratio],
    ['RTT of media', milliseconds(sends.rtt_ms)], ['Picture', picture(sends.video_height, sends.video_frames_per_second)],
    ['Bit rate', bitrate(sends.bitrate_kbps)], ['Available', bitrate(sends.available_kbps)],
    ['Limited by', session.limited_by ? LIMITED[session.limited_by] ?? String(session.limited_by) : '–', session.limited_by],
  ]);
  showPairs('receives', list(detail.receives), (pair) => String(pair.peer_id), 'No pairs: the meeting is too large, or the exporter runs with --detail session');
  showPairs('received', list(detail.received_by), (pair) => String(pair.participant_id ?? pair.session_id), 'No other session reports this participant');
  const sessions = list(meeting.sessions), total = meeting.sessions_total;
  text($('meeting-heading'), `The meeting: ${whole(total)} sessions${total > sessions.length ? `, the worst ${sessions.length}` : ''}`);
  rows($('meeting').tBodies[0], sessions, (other) => String(other.session_id), (other) => {
    const row = cells(11, { 1: 'id', 6: 'number', 7: 'number', 8: 'number', 9: 'number' });
    opener(row.cells[0], String(other.session_id));
    return row;
  }, (row, other) => {
    reopen(row.cells[0], String(other.session_id));
    put(row, 1, String(other.participant_id), true);
    put(row, 2, String(other.region));
    put(row, 3, host(other.server_url), true);
    put(row, 4, release(other), true);
    put(row, 5, route(other));
    put(row, 6, milliseconds(other.rtt_ms));
    put(row, 7, percent(other.packets_lost_ratio));
    marked(row, 8, percent(other.sent_packets_lost_ratio), other.sent_packets_lost_ratio > limits.packets_lost_limit_ratio);
    put(row, 9, percent(other.audio_concealed_ratio));
    put(row, 10, wrongs(other));
    row.cells[10].classList.toggle('strong', list(other.degraded_by).length > 0);
  }, 'No sessions');
}

$('drill').addEventListener('close', () => { opened = null; });
$('drill-close').addEventListener('click', () => $('drill').close());
$('drill').addEventListener('click', (event) => { if (event.target === $('drill')) $('drill').close(); });

// ---- asking ----

async function ask(path) {
  const response = await fetch(path, { cache: 'no-store', signal: AbortSignal.timeout(ANSWER_WITHIN) });
  if (response.status === 401) throw new Error('the exporter requires a password: reload the page');
  let answer;
  try {
    answer = await response.json();
  } catch {
    throw new Error(`the exporter answered ${response.status}, without JSON`);
  }
  if (!response.ok) throw new Error(String(answer.error ?? `the exporter answered ${response.status}`));
  return answer;
}
