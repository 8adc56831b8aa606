// What user code finds beside the language itself (processor.md 7.5), made anew for every batch.
//
// Evaluated once per context, before any user code, with the functions of the node as `host`. Everything that it needs
// later is captured here, so that code that tampers with the built-ins harms only itself. What it returns is called by
// the node and never reachable from user code.
(host) => {
  "use strict";
  const global = globalThis;
  const { parse, stringify } = JSON;
  const { apply, defineProperty, deleteProperty } = Reflect;
  const freeze = Object.freeze;
  const { isArray } = Array;
  const toTag = Object.prototype.toString;
  const sourceOf = Function.prototype.toString;
  const functions = Function.prototype;
  const P = Promise;
  const Text = String;
  const Err = Error;
  const TypeErr = TypeError;

  for (const name of ["queueMicrotask", "atob", "btoa", "performance", "DOMException", "navigator"]) {
    delete global[name];
  }

  const expose = (name, value) =>
    defineProperty(global, name, { value, writable: true, enumerable: false, configurable: true });

  const nothing = freeze(() => {});
  const console = {};
  for (const name of ["log", "info", "warn", "error", "debug", "trace", "table", "time", "timeEnd", "group",
    "groupEnd", "assert", "count"]) {
    console[name] = nothing;
  }
  expose("console", console);
  expose("global", global);

  const asText = (value) => {
    if (typeof value === "object" && value !== null) {
      const text = stringify(value);
      if (text !== undefined) return text;
    }
    return Text(value);
  };

  expose("log", freeze((...args) => {
    if (!host.keepsLogs()) return;
    let line = "Log:";
    for (let i = 0; i < args.length; i++) line += " " + asText(args[i]);
    host.log(line);
  }));

  expose("getCredential", freeze((key) => {
    if (key === null || key === undefined) throw new TypeErr("Key should be valid and defined");
    return host.credential(Text(key));
  }));

  // Requests under way, by number. The node answers each once, never while code runs.
  const waiting = { __proto__: null };
  const start = (kind, target, options, resolve, reject) => {
    const text = target === undefined || target === null ? "" : Text(target);
    const more = options === undefined || options === null ? "" : stringify(options) ?? "";
    waiting[host.ask(kind, text, more)] = { __proto__: null, resolve, reject };
  };

  expose("fetch", freeze((url, options) => new P((resolve) => {
    const fail = () => resolve("ERROR");
    try {
      start("fetch", url, options, resolve, fail);
    } catch {
      fail();
    }
  })));

  expose("fetchV2", freeze((url, options) => new P((resolve, reject) => {
    const fail = (message) => reject({ message });
    try {
      start("fetchV2", url, options, resolve, fail);
    } catch (error) {
      fail(Text(error));
    }
  })));

  expose("geolocation", freeze((ip) => new P((resolve, reject) =>
    start("geolocation", ip, undefined, resolve, (message) => reject(new Err(message))))));

  const metadataKeys = ["sourceId", "sourceName", "workspaceId", "sourceType", "sourceCategory", "destinationId",
    "destinationType", "destinationName", "namespace", "originalSourceId", "trackingPlanId", "trackingPlanVersion",
    "sourceTpConfig", "mergedTpConfig", "jobId", "sourceJobId", "sourceJobRunId", "sourceTaskRunId", "recordId",
    "messageId", "messageIds", "rudderId", "receivedAt", "eventName", "eventType", "sourceDefinitionId",
    "destinationDefinitionId", "transformationId", "transformationVersionId"];
  const metadata = freeze((event) => {
    const text = host.metadata(Text(event.messageId));
    const known = text === undefined ? { __proto__: null } : parse(text);
    const answer = {};
    for (let i = 0; i < metadataKeys.length; i++) {
      const key = metadataKeys[i];
      const value = known[key];
      defineProperty(answer, key, { value, writable: true, enumerable: true, configurable: true });
    }
    return answer;
  });

  // A function inside an output cannot leave the sandbox: writing one fails.
  const refuse = function () {
    throw new TypeErr(apply(sourceOf, this, []) + " could not be cloned.");
  };
  const guard = { value: refuse, writable: true, enumerable: false, configurable: true };

  return {
    __proto__: null,
    metadata,
    // 0: an object, 1: an array, 2: nothing, 3: something else.
    kind: (value) =>
      value === undefined || value === null ? 2
        : isArray(value) ? 1
          : apply(toTag, value, []) === "[object Object]" ? 0 : 3,
    settle: async (value) => await value,
    answer: (id, isGood, text) => {
      const { resolve, reject } = waiting[id];
      delete waiting[id];
      if (!isGood) return reject(text);
      let value;
      try {
        value = parse(text);
      } catch (error) {
        return reject("the answer is too deeply nested or too large");
      }
      resolve(value);
    },
    guardFunctions: (isOn) => {
      if (isOn) defineProperty(functions, "toJSON", guard);
      else deleteProperty(functions, "toJSON");
    },
    // A thrown value that is no error, as text.
    describe: (value) => {
      try {
        return asText(value);
      } catch {
        return "a value that cannot be shown";
      }
    },
  };
}
