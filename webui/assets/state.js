// Watches the server: one poll at a time, quick while a job runs, slow when idle, rare when nobody looks.
(function (easel) {
  "use strict";

  const RUNNING = 250, IDLE = 1500, HIDDEN = 5000, AWAY_MOST = 8000;
  let version = null, timer = null, busy = false, again = false, failures = 0;
  easel.state = { engine: { state: "starting", residents: [] }, jobs: [], away: false };

  easel.unfinished = () => easel.state.jobs.filter((job) => job.state === "queued" || job.state === "running");
  easel.runningJob = () => easel.state.jobs.find((job) => job.state === "running");

  function pause() {
    if (failures) return Math.min(AWAY_MOST, 500 * 2 ** failures);
    if (document.hidden) return HIDDEN;
    return easel.unfinished().length ? RUNNING : IDLE;
  }

  async function poll() {
    clearTimeout(timer);
    if (busy) {
      again = true;
      return;
    }
    busy = true;
    try {
      const since = version === null ? "" : `?since=${encodeURIComponent(version)}`;
      const answer = await easel.api(`state${since}`);
      const wasAway = failures > 0;
      failures = 0;
      if (answer && answer.jobs && answer.version !== version) {
        version = answer.version;
        easel.state = { ...answer, away: false };
        easel.emit("state", easel.state);
        if (answer.page && easel.page && answer.page !== easel.page) easel.emit("page is old", answer.page);
      } else if (wasAway) {
        easel.state.away = false;
        easel.emit("state", easel.state);
      }
    } catch (error) {
      failures += 1;
      easel.state.away = true;
      version = null; // a server that was started again counts anew
      easel.emit("state", easel.state);
    }
    busy = false;
    if (again) {
      again = false;
      poll();
      return;
    }
    timer = setTimeout(poll, pause());
  }

  easel.lookNow = () => void poll();
  easel.cancel = async (id) => {
    easel.emit("cancelled", id);
    try {
      await easel.post(`jobs/${encodeURIComponent(id)}/cancel`);
    } catch (error) {
      easel.toast(error.message, "error");
    }
    poll();
  };
  // The running job, or the first one waiting: what Interrupt and Esc mean.
  easel.interrupt = () => {
    const job = easel.runningJob() || easel.unfinished().at(-1);
    if (job) easel.cancel(job.id);
  };

  document.addEventListener("visibilitychange", () => !document.hidden && poll());
  easel.whenReady(poll);
})(window.easel);
