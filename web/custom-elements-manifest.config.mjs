/** How `npm run manifest` writes custom-elements.json: what a page may use, and nothing else. */

// `Base` in the modules, for Node's sake.
const superclass = { name: "HTMLElement", package: "global:" };

/** Keeps what is documented: the analyzer also lists what is private, and what a constructor assigns to. */
function tidy(element) {
  const members = element.members.filter(({ description, privacy }) => description && !privacy);
  const events = element.events.filter(({ name }) => name.startsWith("session-"));
  Object.assign(element, { superclass, members, events });
  for (const member of members) delete member.default; // code, and long
}

export default {
  globs: ["define*.js", "session-*.js"],
  plugins: [
    {
      name: "tidy",
      packageLinkPhase({ customElementsManifest: { modules } }) {
        for (const module of modules) {
          module.declarations = module.declarations.filter(({ customElement }) => customElement);
          module.declarations.forEach(tidy);
          const names = module.declarations.map(({ name }) => name);
          module.exports = module.exports.filter(({ kind, name }) => kind !== "js" || names.includes(name));
          for (const { declaration } of module.exports)
            declaration.module = declaration.module.replace(/^\//, "");
        }
      },
    },
  ],
};
