// SPDX-License-Identifier: Apache-2.0

// Package docs_test holds the documents against the tree.
package docs_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// root is where the paths that documents name begin.
const root = ".."

var (
	quoted = regexp.MustCompile("`([A-Za-z0-9_.][A-Za-z0-9_./-]*)`")
	linked = regexp.MustCompile(`\]\(([^)#:]+)(#[^)]*)?\)`)
	// folders are those that a path has to begin with to be one.
	folders = regexp.MustCompile(`^(agent|bpf|cmd|datapath|docs|lab|model|pcap|policy|record|replay|scenarios|vmtest|\.ci)/`)
)

// paths are the files and folders of the tree that a text names in `backquotes`.
func paths(text string) []string {
	var found []string
	for _, match := range quoted.FindAllStringSubmatch(text, -1) {
		if folders.MatchString(match[1]) {
			found = append(found, match[1])
		}
	}
	return found
}

// missing are those of paths that are not there.
func missing(folder string, paths []string) []string {
	var gone []string
	for _, path := range paths {
		if _, err := os.Stat(filepath.Join(folder, path)); err != nil {
			gone = append(gone, path)
		}
	}
	return gone
}

func TestWhatTheDocumentsNameIsThere(t *testing.T) {
	least := map[string]int{"architecture.md": 40, "contributing.md": 25}
	for name, count := range least {
		text, err := os.ReadFile(name)
		require.NoError(t, err)
		named := paths(string(text))
		require.Greater(t, len(named), count, "%s names too few files: are they still read?", name)
		require.Empty(t, missing(root, named), "%s names what is not in the tree: write the new name there", name)
	}

	// One that is planted is found.
	require.Equal(t, []string{"bpf/lib/no-such.h"}, missing(root, paths("see `bpf/lib/no-such.h`, `bpf/lib/conntrack.h` and `skb->cb`")))
}

func TestLinksBetweenDocumentsLead(t *testing.T) {
	documents, err := filepath.Glob("*.md")
	require.NoError(t, err)
	for _, name := range append(documents, "../README.md", "../CHANGELOG.md", "../SECURITY.md") {
		text, err := os.ReadFile(name)
		require.NoError(t, err)
		var targets []string
		for _, match := range linked.FindAllStringSubmatch(string(text), -1) {
			if !strings.Contains(match[1], " ") {
				targets = append(targets, match[1])
			}
		}
		require.Empty(t, missing(filepath.Dir(name), targets), "%s links to what is not there", name)
	}
}

func TestTheReadmeLinksToEveryDocument(t *testing.T) {
	readme, err := os.ReadFile(filepath.Join(root, "README.md"))
	require.NoError(t, err)
	documents, err := filepath.Glob("*.md")
	require.NoError(t, err)
	require.NotEmpty(t, documents)
	for _, name := range documents {
		require.Contains(t, string(readme), "docs/"+name)
	}
}
