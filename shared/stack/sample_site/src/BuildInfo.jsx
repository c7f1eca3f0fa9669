const build = __BUILD__;

export function BuildInfo() {
  const facts = [
    ["Branch", build.branch],
    ["Commit", build.commit],
    ["Environment", build.environment],
    ["Node", build.node],
  ];
  return (
    <dl className="facts">
      {facts.map(([name, value]) => (
        <div key={name}>
          <dt>{name}</dt>
          <dd>{value}</dd>
        </div>
      ))}
    </dl>
  );
}
