// Reads a JSON list of {root, directory} on stdin (absolute path; path below it, "" for the root itself) and prints a
// JSON list of what @netlify/build-info finds there, in the same order:
// {framework, command, output, manager}, each null where it finds none; output is relative to the directory.
import { text } from 'node:stream/consumers'
import { Project } from '@netlify/build-info'
import { NodeFS } from '@netlify/build-info/node'

const silent = { debug() {}, log() {}, error() {}, info() {}, warn() {} }

async function detect({ root, directory }) {
  // It reads some files relative to the process.
  process.chdir(`${root}/${directory}`)
  const fs = new NodeFS()
  fs.logger = silent
  const problems = []
  const project = new Project(fs, directory, root).setEnvironment({}).setNodeVersion('v24.0.0')
  project.setReportFn((error) => problems.push(String(error)))
  const [settings] = await project.getBuildSettings(directory)
  // Below a directory that is no workspace it knows a framework but no settings.
  const [framework] = settings ? [] : await project.detectFrameworksInPath(project.baseDirectory)
  if (problems.length) throw new Error(`${root} ${directory}: ${problems.join('; ')}`)
  const dist = settings ? fs.relative(fs.join(root, directory), fs.join(root, settings.dist)) : framework?.build.directory
  return {
    framework: settings?.framework.id ?? framework?.id ?? null,
    command: settings?.buildCommand ?? framework?.getBuildCommands()[0] ?? null,
    output: dist === '' ? '.' : (dist ?? null),
    manager: project.packageManager?.name ?? null,
  }
}

const found = []
for (const place of JSON.parse(await text(process.stdin))) found.push(await detect(place))
process.stdout.write(JSON.stringify(found))
