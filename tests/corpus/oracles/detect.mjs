// Reads a JSON list of directories on stdin and prints a JSON list, in the same order, of what other programs find at
// their top: {netlify, vercel}, each {framework, command, output}, null where it finds none.
import { text } from 'node:stream/consumers'
import { Project } from '@netlify/build-info'
import { NodeFS } from '@netlify/build-info/node'
import frameworks from '@vercel/frameworks'
import detectors from '@vercel/fs-detectors'

const silent = { debug() {}, log() {}, error() {}, info() {}, warn() {} }

async function netlify(root) {
  // It reads some files relative to the process.
  process.chdir(root)
  const fs = new NodeFS()
  fs.logger = silent
  const project = new Project(fs, '', root).setEnvironment({}).setNodeVersion('v24.0.0')
  project.setReportFn(() => {})
  const [settings] = await project.getBuildSettings('')
  return {
    framework: settings?.framework.id ?? null,
    command: settings?.buildCommand ?? null,
    output: settings ? fs.relative(root, fs.join(root, settings.dist)) || '.' : null,
  }
}

async function vercel(root) {
  const fs = new detectors.LocalFileSystemDetector(root)
  const found = await detectors.detectFrameworkRecord({ fs, frameworkList: frameworks.frameworkList ?? frameworks.default })
  const { buildCommand, outputDirectory } = found?.settings ?? {}
  return {
    framework: found?.slug ?? null,
    command: buildCommand?.value ?? buildCommand?.placeholder ?? null,
    output: outputDirectory?.value ?? outputDirectory?.placeholder ?? null,
  }
}

async function attempt(detect, root) {
  try {
    return await detect(root)
  } catch (error) {
    return { framework: `error: ${error}`, command: null, output: null }
  }
}

const found = []
for (const root of JSON.parse(await text(process.stdin)))
  found.push({ netlify: await attempt(netlify, root), vercel: await attempt(vercel, root) })
process.stdout.write(JSON.stringify(found))
