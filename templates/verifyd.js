// Everything works without this script. With it, pages follow what happens, and commands can be
// copied with one click.
(() => {
  "use strict";

  const main = () => document.getElementById("main");
  const state = document.getElementById("live-state");
  let source = null;
  let mark = main()?.dataset.mark ?? null;
  let loading = false;
  let again = false;
  let waiting = false;

  const say = (text, on) => {
    if (!state) return;
    state.textContent = text;
    state.classList.toggle("on", Boolean(on));
  };

  // Someone who types, or has opened a form, is not to lose it.
  const busy = () => {
    const at = document.activeElement;
    if (at && main()?.contains(at) && at.matches("input, textarea, select")) return true;
    return [...document.querySelectorAll("main details[open] textarea")].some((t) => t.value !== "");
  };

  const load = async () => {
    if (busy()) {
      waiting = true;
      say("There is something new; it is shown when you leave the form.", true);
      return;
    }
    if (loading) {
      again = true;
      return;
    }
    loading = true;
    waiting = false;
    try {
      // What has changed need not be on a replica yet.
      const headers = { Accept: "text/html", "Cache-Control": "no-cache" };
      const answer = await fetch(location.href, { headers, credentials: "same-origin" });
      if (answer.redirected && new URL(answer.url).pathname === "/login") {
        location.reload();
        return;
      }
      if (!answer.ok) throw new Error(String(answer.status));
      show(new DOMParser().parseFromString(await answer.text(), "text/html"));
    } catch {
      say("Could not load what is new; trying again.", false);
      setTimeout(load, 5000);
    } finally {
      loading = false;
      if (again) {
        again = false;
        load();
      }
    }
  };

  const show = (page) => {
    const fresh = page.getElementById("main");
    if (!fresh || busy()) return;
    const open = [...document.querySelectorAll("main details[open][id]")].map((d) => d.id);
    const focus = document.activeElement?.id;
    const was = main().dataset.live;
    main().replaceWith(document.adoptNode(fresh));
    document.title = page.title;
    for (const id of open) document.getElementById(id)?.setAttribute("open", "");
    if (focus) document.getElementById(focus)?.focus({ preventScroll: true });
    ready();
    if (main().dataset.live !== was) follow();
  };

  const follow = () => {
    source?.close();
    source = null;
    const address = main()?.dataset.live;
    if (!address) {
      say("", false);
      return;
    }
    if (document.hidden) return;
    source = new EventSource(address);
    source.onopen = () => say("Live", true);
    source.onerror = () => say(source?.readyState === EventSource.CLOSED ? "Not live: load the page again to see what is new." : "Connecting again…", false);
    source.addEventListener("now", (event) => {
      if (mark !== null && mark !== event.data) load();
      mark = event.data;
    });
    source.addEventListener("changed", (event) => {
      mark = event.data;
      load();
    });
    source.addEventListener("last", () => {
      source.close();
      say("", false);
      load();
    });
  };

  // Ages grow while the page stays open.
  const age = (ms) => {
    const s = Math.floor(ms / 1000);
    if (s < 2) return "just now";
    if (s < 120) return `${s} s ago`;
    if (s < 7200) return `${Math.floor(s / 60)} min ago`;
    if (s < 172800) return `${Math.floor(s / 3600)} h ago`;
    return `${Math.floor(s / 86400)} days ago`;
  };
  const tick = () => {
    for (const time of document.querySelectorAll("main time[datetime]")) {
      const ms = Date.now() - Date.parse(time.dateTime);
      if (ms >= 0) time.textContent = age(ms);
    }
  };

  const ready = () => {
    for (const button of document.querySelectorAll("button[data-copy]")) button.hidden = false;
  };

  document.addEventListener("click", async (event) => {
    const button = event.target.closest?.("button[data-copy]");
    if (!button) return;
    const from = document.getElementById(button.dataset.copy);
    try {
      await navigator.clipboard.writeText(from.textContent);
      button.textContent = "Copied";
    } catch {
      getSelection().selectAllChildren(from);
      button.textContent = "Selected";
    }
    setTimeout(() => { button.textContent = "Copy"; }, 2000);
  });
  document.addEventListener("focusout", () => setTimeout(() => { if (waiting) load(); }, 0));
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) {
      source?.close();
      source = null;
    } else {
      follow();
    }
  });
  addEventListener("pagehide", () => source?.close());

  // A one-time link brings the token behind the #, where no server and no log sees it.
  const login = document.getElementById("login");
  if (login && location.hash.startsWith("#token=")) {
    const token = decodeURIComponent(location.hash.slice("#token=".length));
    history.replaceState(null, "", location.pathname + location.search);
    login.elements.token.value = token;
    login.requestSubmit();
  }

  ready();
  setInterval(tick, 5000);
  follow();
})();
