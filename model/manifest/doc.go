// SPDX-License-Identifier: Apache-2.0

// Package manifest holds Kubernetes' objects: it reads them from YAML and JSON,
// says by object, field and remedy what the API would refuse, and derives what a
// cluster's controllers would add.
package manifest
