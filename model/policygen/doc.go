// SPDX-License-Identifier: Apache-2.0

// Package policygen makes small clusters with random policies in all languages
// that the model knows, and shrinks those that fail a test.
//
// It is for tests that compare two answers to what policies allow. Names,
// labels, ports and addresses are few, so that selectors meet pods, and rules
// each other. Equal sources of chance give equal clusters, and every cluster
// passes manifest.Validate.
package policygen
