import { useEffect, useRef, useState } from "react";
import { createRoot } from "react-dom/client";
import type { SessionHeart } from "session-keepalive";
import "session-keepalive/define";
import "session-keepalive/define-guard";

function Notes() {
  const heart = useRef<SessionHeart>(null);
  const [left, setLeft] = useState<number | null>(null);
  const [csrf, setCsrf] = useState("");
  const [saved, setSaved] = useState<string[]>([]);

  useEffect(() => {
    const timer = setInterval(() => setLeft(heart.current?.keepalive?.expiresIn ?? null), 1_000);
    return () => clearInterval(timer);
  }, []);

  return (
    <>
      <session-heart
        ref={heart}
        src="/keepalive/"
        onsession-beat={({ data }) => setCsrf(data.csrf)}
        onsession-push={({ data }) => setSaved((saved) => [...saved, data.saved])}
      />
      <session-guard src="/keepalive/" logout="/logout" />

      <main data-private>
        <h1>Notes</h1>
        <form id="note" data-keep method="post" action="/save">
          <input type="hidden" name="csrf" value={csrf} />
          <textarea name="note" aria-label="Note" required />
          <button disabled={!csrf}>Save</button>
        </form>
        <p>
          The session ends in <output>{left === null ? "…" : Math.round(left)}</output> seconds, unless
          something extends it.
        </p>
        <ul aria-label="Saved notes">
          {saved.map((note, index) => (
            <li key={index}>{note}</li>
          ))}
        </ul>
        <form method="post" action="/logout">
          <button>Sign out</button>
        </form>
      </main>
    </>
  );
}

createRoot(document.querySelector("#app")!).render(<Notes />);
