// Votes that are not yet known to have arrived. They outlive a lost connection, a closed window and a crash of the
// browser; the server keeps each once, by its name.

export class Outbox {
  constructor(store) {
    this.prefix = `ratchet:${store}:vote:`;
  }

  put(vote) {
    try {
      localStorage.setItem(this.prefix + vote.vote_id, JSON.stringify(vote));
    } catch {
      // A browser that keeps nothing (private window, full disk) still sends it from memory.
      this.unkept = vote;
    }
  }

  drop(vote) {
    this.kept()?.removeItem(this.prefix + vote.vote_id);
    if (this.unkept?.vote_id === vote.vote_id) this.unkept = undefined;
  }

  all() {
    const kept = this.kept();
    const names = Object.keys(kept ?? {}).filter((name) => name.startsWith(this.prefix));
    const votes = names.map((name) => JSON.parse(kept.getItem(name)));
    return this.unkept ? [...votes, this.unkept] : votes;
  }

  kept() {
    try {
      return localStorage;
    } catch {
      return undefined;
    }
  }
}

// Visible seconds: a page in the background does not count.
export class Watch {
  constructor() {
    this.restart();
    document.addEventListener("visibilitychange", () => {
      if (document.hidden) this.spent += this.running();
      this.since = performance.now();
    });
  }

  restart() {
    this.spent = 0;
    this.since = performance.now();
  }

  running() {
    return (performance.now() - this.since) / 1000;
  }

  seconds() {
    const seconds = this.spent + (document.hidden ? 0 : this.running());
    return Math.min(86400, Math.round(seconds * 100) / 100);
  }
}
