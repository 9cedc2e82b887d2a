/** Bundles the page; what a bundler with a plugin for Vue does by itself, but for `isCustomElement`. */

import { readFile } from "node:fs/promises";
import { build } from "esbuild";
import { compileScript, parse } from "vue/compiler-sfc";

const compilerOptions = { isCustomElement: (tag) => tag.startsWith("session-") };

await build({
  entryPoints: ["notes.ts"],
  bundle: true,
  minify: true,
  splitting: true,
  format: "esm",
  outdir: "page/dist",
  define: {
    __VUE_OPTIONS_API__: "false",
    __VUE_PROD_DEVTOOLS__: "false",
    __VUE_PROD_HYDRATION_MISMATCH_DETAILS__: "false",
  },
  plugins: [
    {
      name: "vue",
      setup({ onLoad }) {
        onLoad({ filter: /\.vue$/ }, async ({ path }) => {
          const { descriptor } = parse(await readFile(path, "utf8"));
          const options = { id: path, inlineTemplate: true, templateOptions: { compilerOptions } };
          return { contents: compileScript(descriptor, options).content, loader: "ts" };
        });
      },
    },
  ],
});
