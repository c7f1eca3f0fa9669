import { useState } from "react";

export function Counter() {
  const [count, setCount] = useState(0);
  return (
    <section className="counter" aria-label="Counter">
      <button type="button" onClick={() => setCount(count - 1)} aria-label="One less">
        −
      </button>
      <output aria-live="polite">{count}</output>
      <button type="button" onClick={() => setCount(count + 1)} aria-label="One more">
        +
      </button>
    </section>
  );
}
