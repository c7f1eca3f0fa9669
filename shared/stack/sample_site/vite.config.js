import react from "@vitejs/plugin-react";
import { defineConfig } from "vite";

// What the platform tells every build; the page shows it, so that one sees which deployment one looks at.
const build = {
  branch: process.env.CLOUDIFY_BRANCH || "local",
  commit: (process.env.CLOUDIFY_COMMIT_SHA || "").slice(0, 7) || "uncommitted",
  environment: process.env.CLOUDIFY_ENVIRONMENT || "development",
  node: process.versions.node,
};

export default defineConfig({
  plugins: [react()],
  define: { __BUILD__: JSON.stringify(build) },
});
