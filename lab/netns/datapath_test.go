// SPDX-License-Identifier: Apache-2.0

package netns

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/weirnet/weir/datapath"
	"github.com/weirnet/weir/lab"
	"github.com/weirnet/weir/model"
)

// patient is how long a test waits for what must come, and brief for what
// must not.
const (
	patient = 60 * time.Second // a machine may be busy
	brief   = 200 * time.Millisecond
)

func newDatapathWorld(t testing.TB, documents ...string) *World {
	t.Helper()
	w := newTestWorld(t, Options{})
	applyObjects(t, w, documents...)
	return w
}

// listenEverywhere makes host serve the targets of the service, and its twin.
func listenEverywhere(t testing.TB, w *World, hosts ...string) {
	t.Helper()
	for _, host := range hosts {
		require.NoError(t, w.Listen(t.Context(), host, model.ProtocolTCP, 8080, echo(host)))
		require.NoError(t, w.Listen(t.Context(), host, model.ProtocolUDP, 5353, echo(host)))
	}
}

// ports are what listenEverywhere listens on, and the ports of the service
// that lead there.
var ports = []struct {
	protocol        model.Protocol
	target, service uint16
}{{model.ProtocolTCP, 8080, 80}, {model.ProtocolUDP, 5353, 53}}

func TestDatapathCarriesEveryPair(t *testing.T) {
	w := newDatapathWorld(t, serviceObjects)
	listenEverywhere(t, w, "default/web", "outside", "second", "node")
	for _, p := range pairs {
		for _, at := range p.at {
			t.Run(fmt.Sprintf("%s %s", p.name, at), func(t *testing.T) {
				require.NoError(t, w.Ping(within(t, patient), p.from, at))
				for _, port := range ports {
					checkExchange(t, w, p.from, p.to, port.protocol, netip.AddrPortFrom(at, port.target))
				}
			})
		}
	}
}

func TestServiceLeadsToItsPod(t *testing.T) {
	w := newDatapathWorld(t, serviceObjects)
	listenEverywhere(t, w, "default/web")
	for _, service := range []netip.Addr{webServiceV4, webServiceV6} {
		for _, port := range ports {
			t.Run(fmt.Sprintf("%s %s", port.protocol, family(service)), func(t *testing.T) {
				checkExchange(t, w, "default/client", "default/web", port.protocol, netip.AddrPortFrom(service, port.service))
			})
		}
	}
}

func TestPodReachesItselfThroughItsService(t *testing.T) {
	w := newDatapathWorld(t, serviceObjects)
	listenEverywhere(t, w, "default/web")
	for service, node := range map[netip.Addr]netip.Addr{webServiceV4: nodeV4, webServiceV6: nodeV6} {
		for _, port := range ports {
			t.Run(fmt.Sprintf("%s %s", port.protocol, family(service)), func(t *testing.T) {
				c, err := w.Dial(within(t, patient), "default/web", port.protocol, 0, netip.AddrPortFrom(service, port.service))
				require.NoError(t, err)
				answer, err := c.Exchange(within(t, patient), []byte("me?"))
				require.NoError(t, err)
				require.Equal(t, "default/web: me?", string(answer))
				require.Equal(t, "default/web", c.Server())
				require.Equal(t, node, c.Peer().Addr(), "the source is the node's address")
				require.NoError(t, c.Close())
			})
		}
	}
}

const emptyService = `
apiVersion: v1
kind: Service
metadata: {name: empty, namespace: default}
spec:
  clusterIP: 10.96.0.99
  clusterIPs: [10.96.0.99, "fd96::99"]
  ipFamilies: [IPv4, IPv6]
  ipFamilyPolicy: RequireDualStack
  ports:
  - {name: tcp, port: 80, protocol: TCP}
  - {name: udp, port: 53, protocol: UDP}
`

// Over IPv6 a connecting TCP socket of Linux hears of it a second late: its
// stack throws an ICMPv6 error away that comes while connect holds the socket
// (LockDroppedIcmps of nstat), and the SYN is sent again.
func TestServiceWithoutBackendsRefuses(t *testing.T) {
	w := newDatapathWorld(t, serviceObjects, emptyService)
	for _, service := range []netip.Addr{netip.MustParseAddr("10.96.0.99"), netip.MustParseAddr("fd96::99")} {
		t.Run("tcp "+family(service), func(t *testing.T) {
			_, err := w.Dial(within(t, patient), "default/client", model.ProtocolTCP, 0, netip.AddrPortFrom(service, 80))
			require.ErrorIs(t, err, lab.ErrRefused)
		})
		t.Run("udp "+family(service), func(t *testing.T) {
			c, err := w.Dial(within(t, patient), "default/client", model.ProtocolUDP, 0, netip.AddrPortFrom(service, 53))
			require.NoError(t, err)
			_, err = c.Exchange(within(t, patient), []byte("?"))
			require.ErrorIs(t, err, lab.ErrRefused)
			require.NoError(t, c.Close())
		})
	}
}

func TestPolicyStopsWhomItDoesNotName(t *testing.T) {
	w := newDatapathWorld(t, serviceObjects, onlyClient)
	listenEverywhere(t, w, "default/web")
	for _, tt := range []struct {
		from    string
		allowed bool
	}{
		{"default/client", true}, {"default/other", false}, {"outside", false}, {"node", true},
	} {
		for _, at := range []netip.Addr{webV4, webV6} {
			t.Run(fmt.Sprintf("from %s %s", tt.from, family(at)), func(t *testing.T) {
				if tt.allowed {
					checkExchange(t, w, tt.from, "default/web", model.ProtocolTCP, netip.AddrPortFrom(at, 8080))
					require.NoError(t, w.Ping(within(t, patient), tt.from, at))
					return
				}
				w.Walks()
				over, before := within(t, patient), policyDrops(t, w)
				for policyDrops(t, w) == before && over.Err() == nil { // time may be up before anything is sent
					_, err := w.Dial(within(t, brief), tt.from, model.ProtocolTCP, 0, netip.AddrPortFrom(at, 8080))
					require.ErrorIs(t, err, lab.ErrTimeout)
					require.ErrorIs(t, w.Ping(within(t, brief), tt.from, at), lab.ErrTimeout)
				}
				require.Contains(t, reasons(w.Walks()), model.Reason("policy-ingress"))
			})
		}
	}
}

func reasons(walks []lab.Walk) []model.Reason {
	var all []model.Reason
	for _, walk := range walks {
		for _, step := range walk.Steps {
			all = append(all, step.Decision.Reason)
		}
	}
	return all
}

func TestRevokedPermissionActsOnTheNextPacket(t *testing.T) {
	w := newDatapathWorld(t, serviceObjects)
	listenEverywhere(t, w, "default/web")
	open := map[string]lab.Conn{}
	for _, from := range []string{"default/client", "default/other"} {
		for _, at := range []netip.Addr{webServiceV4, webServiceV6} {
			c, err := w.Dial(within(t, patient), from, model.ProtocolTCP, 0, netip.AddrPortFrom(at, 80))
			require.NoError(t, err)
			_, err = c.Exchange(within(t, patient), []byte("before"))
			require.NoError(t, err)
			open[from+" "+family(at)] = c
		}
	}
	applyObjects(t, w, serviceObjects, onlyClient)
	for _, f := range []string{" IPv4", " IPv6"} {
		_, err := open["default/client"+f].Exchange(within(t, patient), []byte("after"))
		require.NoError(t, err)
		_, err = open["default/other"+f].Exchange(within(t, brief), []byte("after"))
		require.ErrorIs(t, err, lab.ErrTimeout)
	}
	applyObjects(t, w, serviceObjects)
	for _, c := range open {
		require.NoError(t, c.Close())
	}
}

func TestTranslatedFramesOfSocketsHaveWholeChecksums(t *testing.T) {
	w := newDatapathWorld(t, serviceObjects)
	listenEverywhere(t, w, "default/web")
	for _, service := range []netip.Addr{webServiceV4, webServiceV6} {
		for _, port := range ports {
			checkExchange(t, w, "default/client", "default/web", port.protocol, netip.AddrPortFrom(service, port.service))
		}
	}
	for _, host := range []string{"default/client", "default/web"} {
		requireWholeChecksums(t, w, host)
	}
}

func TestOneFiveTupleThroughTheServiceIsDialledAgainAtOnce(t *testing.T) {
	w := newDatapathWorld(t, serviceObjects)
	listenEverywhere(t, w, "default/web")
	for _, service := range []netip.Addr{webServiceV4, webServiceV6} {
		for range 10 {
			c, err := w.Dial(within(t, patient), "default/client", model.ProtocolTCP, 40000, netip.AddrPortFrom(service, 80))
			require.NoError(t, err)
			_, err = c.Exchange(within(t, patient), []byte("again"))
			require.NoError(t, err)
			require.NoError(t, c.Close())
		}
	}
}

func TestNothingOfTheDatapathIsLeftBehind(t *testing.T) {
	needRoot(t)
	for _, options := range []Options{
		{}, {Pin: true}, {Datapath: datapath.Options{ForceClsact: true}}, {Pin: true, Datapath: datapath.Options{ForceClsact: true}},
	} {
		t.Run(fmt.Sprintf("pinned: %t, clsact forced: %t", options.Pin, options.Datapath.ForceClsact), func(t *testing.T) {
			before := holdings(t)
			for range 2 {
				w, err := New(t.Context(), topology(), options)
				require.NoError(t, err)
				applyObjects(t, w, serviceObjects, onlyClient)
				listenEverywhere(t, w, "default/web")
				checkExchange(t, w, "default/client", "default/web", model.ProtocolTCP, netip.AddrPortFrom(webServiceV6, 80))
				require.NoError(t, w.Close())
			}
			requireNothingOver(t, before)
		})
	}
}

func TestWorldsAtOnceDoNotMeet(t *testing.T) {
	for n := range 3 {
		t.Run(fmt.Sprintf("world %d", n), func(t *testing.T) {
			t.Parallel()
			w := newDatapathWorld(t, serviceObjects)
			listenEverywhere(t, w, "default/web")
			for range 5 {
				checkExchange(t, w, "default/client", "default/web", model.ProtocolTCP, netip.AddrPortFrom(webServiceV4, 80))
			}
		})
	}
}
