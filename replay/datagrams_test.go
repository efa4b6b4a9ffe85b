// SPDX-License-Identifier: Apache-2.0

package replay

import (
	"encoding/binary"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/weirnet/weir/model"
)

func TestALaterFragmentTakesItsFirstOneAlong(t *testing.T) {
	needRoot(t)
	for family, a := range map[string][3]string{"IPv4": {"10.1.0.1", "10.1.0.2", "10.96.0.3"}, "IPv6": {"fd01::1", "fd01::2", "fd96::3"}} {
		other, otherLater := datagram(t, a[0], a[1], 6)
		first, later := datagram(t, a[0], a[1], 7)
		_, orphan := datagram(t, a[0], a[1], 8)
		served, servedLater := datagram(t, a[0], a[2], 9)
		captures := captureOf(t,
			sent{0, tcp(t, a[0], a[1], 5, 6, syn), 0},      // 1
			sent{1, other, 0},                              // 2
			sent{2, orphan, 0},                             // 3
			sent{3, first, 0},                              // 4
			sent{4, served, 0},                             // 5
			sent{5, otherLater, 0},                         // 6
			sent{6, later, 0},                              // 7
			sent{7, servedLater, 0},                        // 8
			sent{40, otherLater, 0},                        // 9, when nobody knows its first one any more
			sent{50, udp(t, a[0], a[1], 1000, 2000, 3), 0}, // 10
		)
		of := Options{Objects: objects(t, datagrammed)}
		for number, want := range map[int]string{
			7:  "forward out=local flow=known",
			3:  "drop reason=fragment",
			8:  "forward out=local flow=known",
			9:  "drop reason=fragment",
			10: "forward out=local flow=new",
		} {
			text, err := scenarioOf(t, captures, of, number)
			require.NoError(t, err)
			lines := strings.Split(strings.TrimSpace(strings.Split(text, "\n-- ")[0]), "\n")
			require.Contains(t, lines[len(lines)-1], want, "%s, packet %d:\n%s", family, number, text)
			switch number {
			case 3:
				require.Equal(t, 1, strings.Count(text, "\nsend "), "%s: another datagram's fragments are not its:\n%s", family, text)
			case 8:
				require.Equal(t, 2, strings.Count(text, "\nsend "), "%s:\n%s", family, text)
				require.Contains(t, text, "dst=dns.default")
			default:
				require.GreaterOrEqual(t, strings.Count(text, "\nsend "), 3, "%s:\n%s", family, text)
				require.NotContains(t, text, "id=8", family)
			}
			requireRepeats(t, text)
		}
		text, err := scenarioOf(t, captures, Options{}, 7)
		require.NoError(t, err)
		requireRepeats(t, text)
	}
}

const datagrammed = `
apiVersion: v1
kind: Service
metadata: {name: dns}
spec: {clusterIP: 10.96.0.3, clusterIPs: [10.96.0.3, "fd96::3"], selector: {app: web}, ports: [{port: 2000, targetPort: 5353, protocol: UDP}]}
`

func TestAMissingUDPChecksumIsMissingInTheScenario(t *testing.T) {
	needRoot(t)
	bare := udp(t, "fd01::1", "fd01::2", 1000, 2000, 4)
	binary.BigEndian.PutUint16(bare[60:], 0)
	text, err := scenarioOf(t, captureOf(t, sent{0, bare, 0}), Options{Objects: objects(t)}, 1)
	require.NoError(t, err)
	require.Contains(t, text, "verdict drop reason="+string(model.ReasonBadUDPChecksum))
	requireRepeats(t, text)
}

func TestAPacketWithCutHeadersIsNoScenario(t *testing.T) {
	needRoot(t)
	whole := udp(t, "10.0.0.1", "192.0.2.1", 1000, 53, 100)
	captures := captureOf(t, sent{0, whole[:40], len(whole)}, sent{0, whole, 0})
	_, err := scenarioOf(t, captures, Options{}, 1)
	require.ErrorIs(t, err, ErrScenario)
	require.ErrorContains(t, err, "cut its headers")
	text, err := scenarioOf(t, captures, Options{}, 2)
	require.NoError(t, err)
	require.Equal(t, 1, strings.Count(text, "\nsend "), text)
}
