import { BuildInfo } from "./BuildInfo.jsx";
import { Counter } from "./Counter.jsx";

const STAGES = [
  ["Clone", "exactly one commit"],
  ["Install", "from a frozen lockfile"],
  ["Build", "in a sandbox without network"],
  ["Upload", "content-addressed"],
  ["Deploy", "switched in one step"],
];

export function App() {
  return (
    <main>
      <header>
        <img src="/cloud.svg" alt="" width="72" height="72" />
        <h1>It works.</h1>
        <p className="lead">
          This page was cloned, installed, built and published by the platform that runs on your machine.
        </p>
      </header>
      <ol className="stages">
        {STAGES.map(([name, detail]) => (
          <li key={name}>
            <strong>{name}</strong>
            <span>{detail}</span>
          </li>
        ))}
      </ol>
      <Counter />
      <BuildInfo />
      <footer>
        Edit <code>src/App.jsx</code>, commit, deploy again. The old version stays until the new one is ready.
      </footer>
    </main>
  );
}
