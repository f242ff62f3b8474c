// Drives a cluster with the official JavaScript client: client.js KUBECONFIG CONTEXT IMAGE.
//
// Prints what it has seen to hold; an exception ends it with 1.

import assert from 'node:assert/strict';
import { once } from 'node:events';
import { connect, createServer } from 'node:net';
import { PassThrough } from 'node:stream';
import { text } from 'node:stream/consumers';
import { setTimeout as sleep } from 'node:timers/promises';
import * as k8s from '@kubernetes/client-node';

const [file, context, image] = process.argv.slice(2);
const namespace = 'javascript-client';

const config = new k8s.KubeConfig();
config.loadFromFile(file);
config.setCurrentContext(context);
const core = config.makeApiClient(k8s.CoreV1Api);

// The API's answer to what it must refuse.
async function refused(code, reason, call) {
  const why = await call().then(() => assert.fail('it was not refused'), (why) => why);
  assert.equal(why.code, code, why);
  const status = typeof why.body === 'string' ? JSON.parse(why.body) : why.body;
  assert.equal(status.reason, reason);
  return status;
}

async function until(what, holds) {
  for (let i = 0; i < 300; i++) {
    const found = await holds();
    if (found) return found;
    await sleep(100);
  }
  assert.fail(`in vain: ${what}`);
}

async function objects() {
  await core.createNamespace({ body: { metadata: { name: namespace } } });
  const body = { metadata: { name: 'a', labels: { x: 'y' } }, data: { k: '1' } };
  const made = await core.createNamespacedConfigMap({ namespace, body });
  assert(made.metadata.creationTimestamp instanceof Date);
  made.data.k = '2';
  await core.replaceNamespacedConfigMap({ name: 'a', namespace, body: made });
  await refused(409, 'Conflict', () => core.replaceNamespacedConfigMap({ name: 'a', namespace, body: made }));
  const merge = k8s.setHeaderOptions('Content-Type', k8s.PatchStrategy.MergePatch);
  const patched = await core.patchNamespacedConfigMap({ name: 'a', namespace, body: { data: { l: '3' } } }, merge);
  assert.deepEqual(patched.data, { k: '2', l: '3' });
  const patch = k8s.setHeaderOptions('Content-Type', k8s.PatchStrategy.JsonPatch);
  const failed = [{ op: 'test', path: '/data/k', value: '1' }];
  await refused(422, 'Invalid', () => core.patchNamespacedConfigMap({ name: 'a', namespace, body: failed }, patch));
  await core.createNamespacedConfigMap({ namespace, body: { metadata: { name: 'b' } } });
  const page = await core.listNamespacedConfigMap({ namespace, limit: 1, labelSelector: '!nothing' });
  const next = await core.listNamespacedConfigMap({ namespace, limit: 100, _continue: page.metadata._continue });
  const names = [...page.items, ...next.items].map((one) => one.metadata.name);
  assert.deepEqual(names.filter((name) => name !== 'kube-root-ca.crt'), ['a', 'b']);
  await refused(404, 'NotFound', () => core.readNamespacedConfigMap({ name: 'nobody', namespace }));
  const status = await refused(422, 'Invalid', () => core.createNamespacedSecret({ namespace, body: { metadata: { name: 'No' } } }));
  assert.equal(status.details.causes[0].field, 'metadata.name');
}

async function informers() {
  const list = () => core.listNamespacedConfigMap({ namespace });
  const informer = k8s.makeInformer(config, `/api/v1/namespaces/${namespace}/configmaps`, list);
  const seen = [];
  for (const verb of ['add', 'update', 'delete']) {
    informer.on(verb, (object) => seen.push(`${verb} ${object.metadata.name}`));
  }
  await informer.start();
  await until('the list', () => informer.get('b', namespace));
  const merge = k8s.setHeaderOptions('Content-Type', k8s.PatchStrategy.MergePatch);
  await core.patchNamespacedConfigMap({ name: 'b', namespace, body: { data: { n: '1' } } }, merge);
  await core.deleteNamespacedConfigMap({ name: 'b', namespace });
  await until('the last event', () => seen.includes('delete b'));
  assert.deepEqual(seen.filter((event) => event.endsWith(' b')), ['add b', 'update b', 'delete b']);
  await informer.stop();
}

async function apply() {
  const objects = k8s.KubernetesObjectApi.makeApiClient(config);
  const service = (port) => ({
    apiVersion: 'v1', kind: 'Service', metadata: { name: 's', namespace }, spec: { ports: [{ port }], selector: { app: 'p' } },
  });
  const owned = await objects.patch(service(80), undefined, undefined, 'one', undefined, k8s.PatchStrategy.ServerSideApply);
  assert.equal(owned.metadata.managedFields[0].operation, 'Apply');
  const other = { ...service(80), spec: { ports: [{ port: 80, name: 'web' }] } };
  await objects.patch(other, undefined, undefined, 'two', undefined, k8s.PatchStrategy.ServerSideApply);
  const third = { ...other, spec: { ports: [{ port: 80, name: 'other' }] } };
  const status = await refused(409, 'Conflict', () =>
    objects.patch(third, undefined, undefined, 'one', undefined, k8s.PatchStrategy.ServerSideApply));
  assert.equal(status.details.causes[0].reason, 'FieldManagerConflict');
  await objects.delete(service(80));
}

async function customResources() {
  const definitions = config.makeApiClient(k8s.ApiextensionsV1Api);
  const group = 'javascript.example.com';
  const openAPIV3Schema = {
    type: 'object',
    properties: { spec: { type: 'object', properties: { size: { type: 'integer', minimum: 1, _default: 2 } } } },
  };
  await definitions.createCustomResourceDefinition({
    body: {
      metadata: { name: `widgets.${group}` },
      spec: {
        group, scope: 'Namespaced', names: { plural: 'widgets', kind: 'Widget' },
        versions: [{ name: 'v1', served: true, storage: true, schema: { openAPIV3Schema } }],
      },
    },
  });
  await until('the definition', async () => {
    const { status } = await definitions.readCustomResourceDefinition({ name: `widgets.${group}` });
    return status?.conditions?.some((one) => one.type === 'Established' && one.status === 'True');
  });
  const widgets = config.makeApiClient(k8s.CustomObjectsApi);
  const where = { group, version: 'v1', namespace, plural: 'widgets' };
  const widget = (spec) => ({ apiVersion: `${group}/v1`, kind: 'Widget', metadata: { name: 'w' }, spec });
  const made = await until('the resource', () =>
    widgets.createNamespacedCustomObject({ ...where, body: widget({}) }).catch((why) => assert.equal(why.code, 404, why)));
  assert.equal(made.spec.size, 2);
  await widgets.deleteNamespacedCustomObject({ ...where, name: 'w' });
  await refused(422, 'Invalid', () => widgets.createNamespacedCustomObject({ ...where, body: widget({ size: 0 }) }));
  await definitions.deleteCustomResourceDefinition({ name: `widgets.${group}` });
}

async function pods() {
  const container = {
    name: 'c', image, imagePullPolicy: 'Never', command: ['sh', '-c', 'echo begun; httpd -p 80 -h /tmp; sleep 1000'],
  };
  const spec = { containers: [container], terminationGracePeriodSeconds: 0 };
  const made = await core.createNamespacedPod({ namespace, body: { metadata: { name: 'p' }, spec } });
  await new Promise((resolve, reject) => {
    const since = { resourceVersion: made.metadata.resourceVersion, fieldSelector: 'metadata.name=p', timeoutSeconds: 60 };
    new k8s.Watch(config).watch(`/api/v1/namespaces/${namespace}/pods`, since,
      (_, pod) => pod.status?.phase === 'Running' && resolve(),
      (why) => reject(why ?? new Error('the Pod never ran')));
  });

  const log = new PassThrough();
  await new k8s.Log(config).log(namespace, 'p', 'c', log, { follow: false });
  assert.equal(await text(log), 'begun\n');

  const run = async (command, stdin) => {
    const [stdout, stderr] = [new PassThrough(), new PassThrough()];
    const said = [text(stdout), text(stderr)];
    const status = await new Promise((resolve, reject) => {
      new k8s.Exec(config).exec(namespace, 'p', 'c', command, stdout, stderr, stdin, false, resolve).catch(reject);
    });
    stdout.end();
    stderr.end();
    return { status, said: await Promise.all(said) };
  };
  const spoken = await run(['sh', '-c', 'echo out; echo err >&2; exit 3'], null);
  assert.deepEqual(spoken.said, ['out\n', 'err\n']);
  assert.equal(spoken.status.details.causes.find((cause) => cause.reason === 'ExitCode').message, '3');

  const forward = new k8s.PortForward(config);
  const server = createServer((socket) => forward.portForward(namespace, 'p', [80], socket, null, socket));
  await once(server.listen(0, '127.0.0.1'), 'listening');
  const socket = connect(server.address().port, '127.0.0.1');
  socket.write('GET /nothing HTTP/1.0\r\n\r\n');
  const [answer] = await once(socket, 'data');
  assert.match(String(answer), /404/);
  socket.destroy();
  server.close();
  await core.deleteNamespacedPod({ name: 'p', namespace });
}

const steps = {
  'objects live and are refused': objects,
  'informers see every change': informers,
  'appliers conflict': apply,
  'custom resources': customResources,
  'a Pod runs, speaks and listens': pods,
};
for (const [name, step] of Object.entries(steps)) {
  await step();
  console.log('ok:', name);
}
process.exit(0);
