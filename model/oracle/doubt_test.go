// SPDX-License-Identifier: Apache-2.0

package oracle

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/weirnet/weir/model"
)

// abroad is a service that a host outside serves.
const abroad = `
apiVersion: v1
kind: Service
metadata: {name: abroad}
spec: {clusterIP: 10.96.0.30, ports: [{name: t, port: 80}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: abroad, labels: {kubernetes.io/service-name: abroad}}
addressType: IPv4
ports: [{name: t, port: 8080}]
endpoints: [{addresses: [192.0.2.1]}]
`

func TestAnAnswerThatPolicyDropsMayKeepItsFlow(t *testing.T) {
	b := newBench(t)
	opening := ip("192.0.2.1", "10.0.0.1", model.ProtocolUDP, udp(53, 5000, 0))
	answer := ip("10.0.0.1", "192.0.2.1", model.ProtocolUDP, udp(5000, 53, 0))
	flow := tuple(model.ProtocolUDP, "192.0.2.1", 53, "10.0.0.1", 5000)
	b.pass(b.to(client, opening), flow, model.OutLocal)
	b.apply(denyIngress("client"))
	dropped := b.from(client, answer)
	requireDrop(t, dropped, model.ReasonPolicyIngress)
	b.oracle.Meet(dropped, b.now)
	b.delete("networkpolicy", "deny-client")
	b.apply(denyEgress("client"))
	b.pass(b.to(client, opening), flow, model.OutLocal)

	b.now = b.now.Add(70 * time.Second)
	e := b.from(client, answer)
	require.NoError(t, e.Check(Outcome{Action: model.Forward, Tuple: flow.Reversed()}), "its flow was answered")
	require.NoError(t, e.Check(Outcome{Action: model.Drop, Reason: model.ReasonPolicyEgress}), "or was not")
	b.now = b.now.Add(120 * time.Second)
	b.oracle.Collect(b.now)
	requireDrop(t, b.from(client, answer), model.ReasonPolicyEgress)
}

func TestAFlowThatFollowsAResetOneIsKnownByErrors(t *testing.T) {
	b := newBench(t, abroad)
	out := tuple(model.ProtocolTCP, "10.0.0.1", 1, "192.0.2.1", 8080)
	b.pass(b.from(client, syn("10.0.0.1", "10.96.0.30", 1, 80)), out, model.OutDevice)
	// Somebody outside has the service's address, too.
	back := tuple(model.ProtocolTCP, "10.96.0.30", 80, "10.0.0.1", 1)
	for _, flags := range []tcpFlags{flagSYN | flagACK, flagRST} {
		b.pass(b.to(client, ip("10.96.0.30", "10.0.0.1", model.ProtocolTCP, tcp(80, 1, flags))), back, model.OutLocal)
	}
	b.pass(b.from(client, syn("10.0.0.1", "10.96.0.30", 1, 80)), out, model.OutDevice)
	b.delete("service", "abroad")
	sent := ip("10.0.0.1", "10.96.0.30", model.ProtocolTCP, tcp(1, 80, flagACK))
	b.pass(b.from(client, sent), back.Reversed(), model.OutDevice)

	e := b.to(client, unreachable("10.96.0.30", "10.0.0.1", quoting(sent)))
	b.passError(e, between("10.96.0.30", "10.0.0.1"), back.Reversed(), model.OutLocal)
}

func TestWhatIsLeftOfAReplacedFlowIsCollected(t *testing.T) {
	b := newBench(t, denyEgress("web"), `
apiVersion: v1
kind: Service
metadata: {name: dns}
spec: {clusterIP: 10.96.0.31, selector: {app: web}, ports: [{port: 53, protocol: UDP}]}
`)
	b.delete("pod", "web-1")
	query := ip("10.0.0.1", "10.96.0.31", model.ProtocolUDP, udp(1, 53, 0))
	answer := ip("10.0.0.2", "10.0.0.1", model.ProtocolUDP, udp(53, 1, 0))
	b.pass(b.from(client, query), tuple(model.ProtocolUDP, "10.0.0.1", 1, "10.0.0.2", 53), model.OutLocal)
	answered := tuple(model.ProtocolUDP, "10.96.0.31", 53, "10.0.0.1", 1)
	b.pass(b.from(web0, answer), answered, model.OutLocal)
	b.delete("service", "dns")
	for range 3 {
		b.now = b.now.Add(70 * time.Second)
		b.pass(b.from(client, query), answered.Reversed(), model.OutDevice)
	}
	b.oracle.Collect(b.now)
	requireDrop(t, b.from(web0, answer), model.ReasonPolicyEgress)
}

func TestAResetIsForgottenWithTheEntryThatSawIt(t *testing.T) {
	b := newBench(t)
	through := syn("10.0.0.1", "10.96.0.10", 1, 80)
	on0 := tuple(model.ProtocolTCP, "10.0.0.1", 1, "10.0.0.2", 8080)
	b.pass(b.from(client, through), on0, model.OutLocal)
	b.pass(b.from(web0, ip("10.0.0.2", "10.0.0.1", model.ProtocolTCP, tcp(8080, 1, flagRST|flagACK))), tuple(model.ProtocolTCP, "10.96.0.10", 80, "10.0.0.1", 1), model.OutLocal)
	b.apply(`
apiVersion: v1
kind: Pod
metadata: {name: web-0, labels: {app: web}, deletionTimestamp: "2023-11-14T22:13:20Z"}
spec: {nodeName: node-a}
status: {podIPs: [{ip: 10.0.0.2}, {ip: "fd00::2"}]}
`)
	e := b.from(client, through)
	require.Error(t, e.Check(Outcome{Action: model.Forward, Tuple: on0}), "its backend takes nothing new")
	on1 := tuple(model.ProtocolTCP, "10.0.0.1", 1, "10.0.0.3", 8080)
	require.NoError(t, e.Check(Outcome{Action: model.Forward, Tuple: on1}))

	// Its answers would be found under the same key.
	b.pass(b.from(client, ip("10.0.0.1", "10.0.0.2", model.ProtocolTCP, tcp(1, 8080, flagACK))), on0, model.OutLocal)
	e = b.from(client, through)
	require.NoError(t, e.Check(Outcome{Action: model.Forward, Tuple: on0}), "nobody remembers the reset")
	require.NoError(t, e.Check(Outcome{Action: model.Forward, Tuple: on1}), "or somebody does")
}

func TestAResetNeedNotOpenAnotherWay(t *testing.T) {
	b := newBench(t)
	sent := tuple(model.ProtocolTCP, "10.0.0.1", 1, "10.0.0.2", 80)
	b.pass(b.from(client, syn("10.0.0.1", "10.0.0.2", 1, 80)), sent, model.OutLocal)
	b.delete("pod", "web-0")
	reset := ip("10.0.0.1", "10.0.0.2", model.ProtocolTCP, tcp(1, 80, flagRST))
	b.pass(b.from(client, reset), sent, model.OutDevice)
	e := b.to(client, unreachable("10.0.0.2", "10.0.0.1", quoting(reset)))
	require.NoError(t, e.Check(Outcome{Action: model.Forward, Quoted: sent, Out: model.OutLocal}))
	require.NoError(t, e.Check(Outcome{Action: model.Drop, Reason: model.ReasonICMPNoFlow}))

	b.pass(b.from(client, ip("10.0.0.1", "10.0.0.2", model.ProtocolTCP, tcp(1, 80, flagACK))), sent, model.OutDevice)
	b.passError(b.to(client, unreachable("10.0.0.2", "10.0.0.1", quoting(reset))), between("10.0.0.2", "10.0.0.1"), sent, model.OutLocal)
}

func TestAFlowThatIsJudgedAfterItsTimeMayBeginAgain(t *testing.T) {
	b := newBench(t)
	b.delete("pod", "web-1")
	through := tuple(model.ProtocolTCP, "172.18.0.2", 1, "10.0.0.2", 8080)
	open := func(flags tcpFlags) {
		b.Helper()
		b.pass(b.from(web0, ip("10.0.0.2", "10.96.0.10", model.ProtocolTCP, tcp(1, 80, flags))), through, model.OutLocal)
	}
	open(flagSYN)
	b.pass(b.from(web0, ip("10.0.0.2", "172.18.0.2", model.ProtocolTCP, tcp(8080, 1, flagSYN|flagACK))), tuple(model.ProtocolTCP, "10.96.0.10", 80, "10.0.0.2", 1), model.OutLocal)
	open(flagACK)
	b.apply(denyIngress("client")) // anything
	b.now = b.now.Add(7 * time.Hour)
	open(flagACK)

	b.now = b.now.Add(100 * time.Second)
	e := b.from(web0, ip("10.0.0.2", "10.96.0.10", model.ProtocolTCP, tcp(1, 80, flagACK)))
	require.Len(t, e.Translations, 2, "it has 6 hours, or the 60 seconds of one that nobody answered")
	require.NotEqual(t, e.Translations[0].known, e.Translations[1].known)
}

func TestAFlowThatMayHaveBegunAgainMayHaveTakenAnothersKey(t *testing.T) {
	for name, changed := range map[string]bool{"under the same objects": false, "under others": true} {
		t.Run(name, func(t *testing.T) { takeAnothersKey(newBench(t), changed) })
	}
}

func takeAnothersKey(b *bench, changed bool) {
	b.delete("pod", "web-1")
	first := syn("10.0.0.2", "10.96.0.10", 1, 80)
	through := tuple(model.ProtocolTCP, "172.18.0.2", 1, "10.0.0.2", 8080)
	b.pass(b.from(web0, first), through, model.OutLocal)
	// Somebody outside has the service's address, too, and is reset.
	back := tuple(model.ProtocolTCP, "10.96.0.10", 80, "10.0.0.2", 1)
	answer := ip("10.96.0.10", "10.0.0.2", model.ProtocolTCP, tcp(80, 1, flagSYN|flagACK))
	b.pass(b.to(web0, answer), back, model.OutLocal)
	b.pass(b.from(web0, ip("10.0.0.2", "10.96.0.10", model.ProtocolTCP, tcp(1, 80, flagRST))), back.Reversed(), model.OutDevice)
	if changed {
		b.apply(denyEgress("client")) // of somebody else
	}
	b.pass(b.from(web0, first), through, model.OutLocal) // the first flow, or a new one that took the reset one's key
	b.delete("service", "nobody")                        // anything
	b.pass(b.to(web0, answer), back, model.OutLocal)
	b.apply(denyIngress("web"))

	e := b.from(web0, first)
	require.NoError(b, e.Check(Outcome{Action: model.Forward, Tuple: through}))
	require.NoError(b, e.Check(Outcome{Action: model.Drop, Reason: model.ReasonPolicyIngress}), "the answer of a flow that nobody remembers to be reset")
}

func TestAResetMayHaveHadItsFlowJudged(t *testing.T) {
	b := newBench(t)
	opening := tuple(model.ProtocolTCP, "192.0.2.1", 80, "10.0.0.1", 1)
	from := func(flags tcpFlags) []byte { return ip("192.0.2.1", "10.0.0.1", model.ProtocolTCP, tcp(80, 1, flags)) }
	answer := ip("10.0.0.1", "192.0.2.1", model.ProtocolTCP, tcp(1, 80, flagACK))
	b.pass(b.to(client, from(flagFIN|flagACK)), opening, model.OutLocal)
	b.pass(b.from(client, answer), opening.Reversed(), model.OutDevice)
	b.delete("service", "nobody") // anything
	b.now = b.now.Add(130 * time.Second)
	b.pass(b.to(client, from(flagRST)), opening, model.OutLocal) // of the flow, or of none

	e := b.to(client, unreachable("192.0.2.1", "10.0.0.1", quoting(answer)))
	require.NoError(t, e.Check(Outcome{Action: model.Forward, Quoted: opening.Reversed(), Out: model.OutLocal}))
	require.NoError(t, e.Check(Outcome{Action: model.Drop, Reason: model.ReasonICMPNoFlow}))
}

func TestAResetMayHaveHadADenialToldOfItsFlow(t *testing.T) {
	b := newBench(t)
	// The address is of a service without backends, to which nothing is opened.
	opening := tuple(model.ProtocolTCP, "10.96.0.11", 80, "10.0.0.1", 1)
	from := func(flags tcpFlags) []byte { return ip("10.96.0.11", "10.0.0.1", model.ProtocolTCP, tcp(80, 1, flags)) }
	answer := ip("10.0.0.1", "10.96.0.11", model.ProtocolTCP, tcp(1, 80, flagACK))
	b.apply(inAudit(denyIngress("client")))
	b.pass(b.to(client, from(flagFIN|flagACK)), opening, model.OutLocal)
	b.pass(b.from(client, answer), opening.Reversed(), model.OutDevice)
	b.apply(denyEgress("web")) // of somebody else
	b.now = b.now.Add(130 * time.Second)
	b.pass(b.to(client, from(flagRST|flagACK)), opening, model.OutLocal) // of the flow, or of none
	b.pass(b.from(client, answer), opening.Reversed(), model.OutDevice)

	e := b.to(client, from(flagSYN|flagACK))
	require.NoError(t, e.Check(Outcome{Action: model.Forward, Told: true, Reason: model.ReasonAuditIngress}))
	require.NoError(t, e.Check(Outcome{Action: model.Forward, Told: true}), "it was told with the reset")
}

func TestAnAnswerMayOpenAFlowWhereAnotherHasLostItsAnswers(t *testing.T) {
	b := newBench(t)
	out := tuple(model.ProtocolTCP, "10.0.0.1", 80, "192.0.2.1", 1)
	send := func(flags tcpFlags) {
		b.Helper()
		b.pass(b.from(client, ip("10.0.0.1", "192.0.2.1", model.ProtocolTCP, tcp(80, 1, flags))), out, model.OutDevice)
	}
	come := func(flags tcpFlags) []byte { return ip("192.0.2.1", "10.0.0.1", model.ProtocolTCP, tcp(1, 80, flags)) }
	send(flagFIN | flagACK)
	b.pass(b.to(client, come(flagSYN)), out.Reversed(), model.OutLocal)
	send(flagSYN | flagACK)
	b.pass(b.to(client, come(flagRST)), out.Reversed(), model.OutLocal)
	b.pass(b.to(client, come(flagSYN)), out.Reversed(), model.OutLocal)
	b.now = b.now.Add(200 * time.Second)
	send(flagSYN | flagACK) // the answer of one, or another
	b.apply(denyEgress("client"))

	e := b.to(client, come(flagACK))
	require.NoError(t, e.Check(Outcome{Action: model.Forward, Tuple: out.Reversed()}))
	require.NoError(t, e.Check(Outcome{Action: model.Drop, Reason: model.ReasonPolicyEgress}), "it answers what the pod may not open any more")
}
