// Runs a TensorFlow.js graph model on given inputs, on its plain CPU backend, and writes the outputs.
//
//   node run.mjs FOLDER_WITH_NODE_MODULES MODEL.json INPUT.f32 1,64,64,1 OUTPUT.json [OUTPUT_NODE ...]
//
// INPUT.f32 holds little-endian float32; OUTPUT.json becomes [{name, shape, values}, ...] in the order of
// the output nodes that are named (else in the model's own order).
import fs from 'node:fs';
import path from 'node:path';
import { createRequire } from 'node:module';

const [modules, model, input, shape, output, ...names] = process.argv.slice(2);
const require = createRequire(path.join(path.resolve(modules), 'package.json'));
const tf = require('@tensorflow/tfjs-core');
require('@tensorflow/tfjs-backend-cpu');
const { loadGraphModel } = require('@tensorflow/tfjs-converter');

const bytes = (file) => {
  const data = fs.readFileSync(file);
  return data.buffer.slice(data.byteOffset, data.byteOffset + data.byteLength);
};
const description = JSON.parse(fs.readFileSync(model, 'utf8'));
const manifest = description.weightsManifest;
const weights = manifest.flatMap((group) => group.paths.map((p) => fs.readFileSync(path.join(path.dirname(model), p))));
const joined = Buffer.concat(weights);
await tf.setBackend('cpu');
const graph = await loadGraphModel({
  load: async () => ({
    modelTopology: description.modelTopology,
    format: description.format,
    signature: description.signature,
    userDefinedMetadata: description.userDefinedMetadata,
    weightSpecs: manifest.flatMap((group) => group.weights),
    weightData: joined.buffer.slice(joined.byteOffset, joined.byteOffset + joined.byteLength),
  }),
});
const given = tf.tensor(new Float32Array(bytes(input)), shape.split(',').map(Number));
const wanted = names.length ? names : graph.outputNodes;
const results = graph.execute({ [graph.inputNodes[0]]: given }, wanted);
const list = Array.isArray(results) ? results : [results];
fs.writeFileSync(
  output,
  JSON.stringify(list.map((t, i) => ({ name: wanted[i], shape: t.shape, values: Array.from(t.dataSync()) }))),
);
