// Writes jetface.d.ts, the types of jetface's API, out of its OpenAPI description: its address, or a file.
import { writeFileSync } from "node:fs";
import { pathToFileURL } from "node:url";
import openapiTS, { astToString } from "openapi-typescript";
import ts from "typescript";

const [source = "http://127.0.0.1:18080/openapi.json"] = process.argv.slice(2);
const types = await openapiTS(URL.canParse(source) ? new URL(source) : pathToFileURL(source), {
  // Pictures are Blobs, which the generator's command line would call strings.
  transform: (schema) =>
    schema.format === "binary" ? ts.factory.createTypeReferenceNode("Blob") : undefined,
});
writeFileSync("jetface.d.ts", astToString(types));
