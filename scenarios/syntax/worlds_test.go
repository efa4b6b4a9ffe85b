// SPDX-License-Identifier: Apache-2.0

package syntax

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestEveryVerbHasAMeaningInAWorld(t *testing.T) {
	require.Equal(t, sortedKeys(verbs), sortedKeys(meanings))
	for name, m := range meanings {
		require.NotEmpty(t, m.prog+m.netns+m.cluster, name)
	}
}

// A verb that the parser refuses in a world has no meaning there.
func TestWorldsWithoutAVerbAreThoseThatRefuseIt(t *testing.T) {
	steps := map[string]string{
		"advance": "advance 1s", "collect": "collect", "counter": "counter forwarded from-container 1", "expect": "expect web nothing",
		"flow": "flow client -> tcp/web:80", "no-flow": "no-flow client -> tcp/web:80", "renew": "renew pod/web",
		"send": "send client ip(dst=web)", "table": `table services has "x"`, "verdict": "send client ip(dst=web)\nverdict forward",
		"ping": "ping client -> web", "connect": "connect client -> tcp/web:80", "listen": "listen web tcp/80",
		"terminate": "terminate pod/web", "dropped": "dropped no-route", "label": "label pod/web a=b", "uses": "uses tcx",
	}
	for name, step := range steps {
		for world, text := range map[World]string{Prog: meanings[name].prog, Netns: meanings[name].netns, Cluster: meanings[name].cluster} {
			_, err := Parse("x.txtar", []byte("# A test.\nworlds "+string(world)+"\ntopology two-pods\n"+step+"\n"))
			refused := err != nil && (strings.Contains(err.Error(), "only world") || strings.Contains(err.Error(), "cluster"))
			require.Equal(t, text == "", refused, "%s in world %s: %v", name, world, err)
		}
	}
}
