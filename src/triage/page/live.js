
// ---- the page of the present: it asks again and again ----

const OFTEN = 1000, SELDOM = 5000, STALE_AFTER = 4000, STUCK_AFTER = 15000;
const FRESH = { live: 'Live', partly: 'Partly old', old: 'Old', stale: 'Stale' };
let good = null, moved = 0, asOf = '', problem = '';

function freshness() {
  const now = performance.now();
  if (good === null && problem === '') return;
  const silent = good === null ? Infinity : now - good;
  const stuck = good !== null && now - moved > STUCK_AFTER;
  const stale = silent > STALE_AFTER || stuck;
  const fresh = stale ? 'stale' : known;
  attribute(document.body, 'data-fresh', fresh);
  text($('fresh-word'), FRESH[fresh]);
  const shown = asOf === '' ? '' : `as of ${clock(new Date(asOf))}`;
  text($('fresh-time'), stale && asOf !== '' ? `${shown}, ${lasting((now - moved) / 1000)} ago` : shown);
  const why = stuck ? 'the exporter answers, but its numbers do not change' : problem;
  text($('alarm'), stale ? `Stale: ${why}. ${asOf === '' ? 'No answer has arrived yet.' : 'The page shows old numbers.'}` : '');
}

async function look() {
  const began = performance.now();
  try {
    const answer = await ask('api/triage');
    show(answer);
    if (answer.as_of !== asOf) { asOf = answer.as_of; moved = performance.now(); }
    good = performance.now();
    problem = '';
  } catch (error) {
    problem = error instanceof TypeError ? 'the exporter does not answer' : error.name === 'TimeoutError' ? 'the exporter does not answer in time' : error.message;
  }
  freshness();
  loadSession();
  const pause = document.hidden ? SELDOM : OFTEN;
  setTimeout(look, Math.max(100, pause - (performance.now() - began)));
}

setInterval(freshness, 500);
look();
