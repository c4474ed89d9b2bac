// The memory after every chunk, from what changed.

const SNAPSHOT_EVERY = 25;

/**
 * steps: of a block. The state after t chunks maps "kind/id" to {kind, id, text, chunk}: the number of its text, and
 * the chunk that last wrote it, from 0.
 */
function history(steps) {
  const snapshots = [new Map()],
    state = new Map();
  steps.forEach(([, , changes], t) => {
    apply(state, changes, t);
    if ((t + 1) % SNAPSHOT_EVERY === 0) snapshots.push(new Map(state));
  });
  return {
    after(t) {
      const from = Math.floor(t / SNAPSHOT_EVERY),
        found = new Map(snapshots[from]);
      for (let i = from * SNAPSHOT_EVERY; i < t; i++) apply(found, steps[i][2], i);
      return found;
    },
    last: state,
  };
}

/** Entries are never changed in place: snapshots share them. */
function apply(state, changes, t) {
  for (const [change, kind, id, , after] of changes) {
    if (change === "delete") state.delete(`${kind}/${id}`);
    else state.set(`${kind}/${id}`, { kind, id, text: after, chunk: t });
  }
}

/** Rows of {sign, entry, before}: the memory before chunk t with what the chunk did to it; what came is at the end. */
function changedRows(before, changes) {
  const byName = new Map(changes.map((change) => [`${change[1]}/${change[2]}`, change]));
  const rows = [];
  for (const [name, entry] of before) {
    const change = byName.get(name);
    if (!change) rows.push({ sign: "=", entry });
    else if (change[0] === "delete") rows.push({ sign: "-", entry });
    else rows.push({ sign: "~", entry: { ...entry, text: change[4] }, before: change[3] });
  }
  for (const [change, kind, id, , after] of changes) {
    if (change === "insert") rows.push({ sign: "+", entry: { kind, id, text: after } });
  }
  return rows;
}
