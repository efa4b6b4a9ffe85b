// SPDX-License-Identifier: Apache-2.0

package main

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestMonitorShowsWhatIsAskedFor(t *testing.T) {
	const drop = `{"time": "2026-01-02T15:04:05.678Z", "hook": "from-container", "endpoint": "default/a", "verdict": "drop", "reason": "policy-denied", "protocol": "tcp",
		"source": "10.0.1.1:40000", "destination": "10.0.2.1:80", "policy": "NetworkPolicy/default/p rule 0", "place": "bpf/lib/policy.h:51",
		"sourceParty": {"kind": "Pod", "name": "default/a"}, "destinationParty": {"kind": "Pod", "name": "default/b"}}`
	const forward = `{"time": "2026-01-02T15:04:05.678Z", "hook": "to-container", "endpoint": "default/c", "verdict": "forward", "protocol": "tcp", "place": "bpf/lib/forward.h:64",
		"source": "[2001:db8::9]:1", "destination": "10.96.0.1:443", "destinationParty": {"kind": "Service", "name": "default/kubernetes"}}`
	const translated = `{"time": "2026-01-02T15:04:05.678Z", "hook": "from-container", "endpoint": "default/d", "verdict": "drop", "reason": "policy-ingress", "protocol": "tcp",
		"source": "10.0.1.1:40000", "destination": "10.96.0.1:80", "translatedDestination": "10.0.2.1:8080", "direction": "egress", "tcpFlags": "S"}`
	const reply = `{"time": "2026-01-02T15:04:05.678Z", "hook": "from-container", "endpoint": "default/d", "verdict": "forward", "protocol": "tcp",
		"source": "10.0.2.1:8080", "destination": "10.0.1.1:40000", "translatedSource": "10.96.0.1:80", "direction": "egress", "reply": true, "tcpFlags": "SA"}`
	const missed = `{"time": "2026-01-02T15:04:05.678Z", "missed": 7}`
	for _, tt := range []struct {
		name  string
		flags monitorFlags
		want  []string // a part of each line
	}{
		{"all", monitorFlags{}, []string{
			"from-container default/a                tcp default/a (10.0.1.1) :40000 > default/b (10.0.2.1) :80  drop policy-denied by NetworkPolicy/default/p rule 0 (bpf/lib/policy.h:51)",
			"tcp [2001:db8::9]:1 > service default/kubernetes (10.96.0.1) :443  forward",
			"tcp S 10.0.1.1:40000 > 10.96.0.1:80 as 10.0.1.1:40000 > 10.0.2.1:8080  drop policy-ingress",
			"tcp SA 10.0.2.1:8080 > 10.0.1.1:40000 as 10.96.0.1:80 > 10.0.1.1:40000 (reply)  forward",
			"7 events were missed",
		}},
		{"drops", monitorFlags{drops: true}, []string{"drop", "drop", "missed"}},
		{"of a device", monitorFlags{endpoint: "default/c"}, []string{"forward", "missed"}},
		{"to a pod elsewhere", monitorFlags{pod: "default/b"}, []string{"drop", "missed"}},
		{"for a reason", monitorFlags{reason: "bad-arp"}, []string{"missed"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var out strings.Builder
			for _, line := range []string{drop, forward, translated, reply, missed} {
				require.NoError(t, tt.flags.print(&out, []byte(line)))
			}
			lines := strings.Split(strings.TrimSpace(out.String()), "\n")
			require.Len(t, lines, len(tt.want), out.String())
			for i := range lines {
				require.Contains(t, lines[i], tt.want[i])
				require.NotContains(t, lines[i], "forward.h", "the place is of drops")
			}
		})
	}
	require.ErrorContains(t, (&monitorFlags{pod: "web"}).check(), "default/web")
}
