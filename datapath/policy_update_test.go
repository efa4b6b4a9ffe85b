// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"

	"github.com/weirnet/weir/bpf"
	"github.com/weirnet/weir/model"
	"github.com/weirnet/weir/model/compile"
	"github.com/weirnet/weir/model/manifest"
	"github.com/weirnet/weir/model/oracle"
	"github.com/weirnet/weir/model/policygen"
)

const updatePods = 4

var updateOptions = policygen.Options{Nodes: 1, MaxPods: updatePods, MaxPolicies: 6}

// asked is a flow that is asked for, and what the oracle says of it in each
// state.
type asked struct {
	name    string
	hook    model.Hook
	ifindex int
	frame   []byte
	allowed []bool
}

// course is states of one cluster that follow each other.
type course struct {
	states []*model.State
	flows  []*asked
}

// newCourse makes a cluster and changes its policies, by chance. A change
// that is refused is none.
func newCourse(t testing.TB, r *rand.Rand, devices []model.Device, length int) *course {
	t.Helper()
	c := &course{}
	local := model.Local{Devices: map[model.Key]model.Device{}, Gateways: model.Gateways(), Identities: model.NewAllocator()}
	var objs *manifest.Objects
	for tries := 0; len(c.states) < length && tries < 10*length; tries++ {
		next := policygen.Cluster(r, updateOptions)
		if objs != nil {
			next = policygen.Change(r, objs, updateOptions)
		} else {
			for i, name := range slices.Sorted(maps.Keys(next.Pods)) {
				local.Devices[model.ParseKey(name)] = devices[i]
			}
		}
		state, _, err := compile.All(next, "node-a", local)
		if err != nil {
			if objs == nil {
				clear(local.Devices)
			}
			continue
		}
		objs = next
		if c.flows == nil {
			c.ask(t, objs, &local)
		}
		c.states = append(c.states, state)
		c.foresee(t, objs)
	}
	require.Len(t, c.states, length, "too many changes were refused")
	return c
}

// ask lists flows between all pods, and with who is outside.
func (c *course) ask(t testing.TB, objs *manifest.Objects, local *model.Local) {
	for _, name := range slices.Sorted(maps.Keys(objs.Pods)) {
		device := local.Devices[model.ParseKey(name)]
		for _, ip := range objs.Pods[name].Status.PodIPs {
			for _, other := range slices.Sorted(maps.Keys(objs.Pods)) {
				for _, peer := range objs.Pods[other].Status.PodIPs {
					if other != name {
						c.between(t, model.FromContainer, device, ip.IP, peer.IP)
					}
				}
			}
			for _, peer := range policygen.Outside {
				c.between(t, model.FromContainer, device, ip.IP, peer)
				c.between(t, model.ToContainer, device, peer, ip.IP)
			}
		}
	}
}

func (c *course) between(t testing.TB, hook model.Hook, device model.Device, src, dst string) {
	if addr(src).Is4() != addr(dst).Is4() {
		return
	}
	for _, port := range []uint16{53, 80, 443, 1023} {
		for _, protocol := range []model.Protocol{model.ProtocolTCP, model.ProtocolUDP} {
			f := &asked{name: fmt.Sprintf("%s %s %d %s", src, dst, port, protocol), hook: hook, ifindex: device.Ifindex}
			if f.frame = tcpFrame(t, src, dst, 40000, port, syn); protocol == model.ProtocolUDP {
				f.frame = udpFrame(t, src, dst, 40000, port)
			}
			if hook == model.ToContainer {
				copy(f.frame, device.PodMAC)
			}
			c.flows = append(c.flows, f)
		}
	}
}

// foresee asks the oracle what one more state allows.
func (c *course) foresee(t testing.TB, objs *manifest.Objects) {
	explainer := oracle.NewExplainer(objs)
	for _, f := range c.flows {
		var src, dst, protocol string
		var port uint16
		_, err := fmt.Sscan(f.name, &src, &dst, &port, &protocol)
		require.NoError(t, err)
		number := model.ProtocolTCP
		if protocol == model.ProtocolUDP.String() {
			number = model.ProtocolUDP
		}
		decision, err := explainer.Explain(src, dst, port, number)
		require.NoError(t, err)
		f.allowed = append(f.allowed, decision.Allowed)
	}
}

// changed counts the flows that two states judge otherwise.
func (c *course) changed(one, other int) int {
	n := 0
	for _, f := range c.flows {
		if f.allowed[one] != f.allowed[other] {
			n++
		}
	}
	return n
}

func udpFrame(t testing.TB, src, dst string, sport, dport uint16) []byte {
	t.Helper()
	from, to := addr(src), addr(dst)
	eth := &layers.Ethernet{SrcMAC: net.HardwareAddr{2, 0, 0, 0, 0, 1}, DstMAC: net.HardwareAddr{2, 0, 0, 0, 0, 2}, EthernetType: layers.EthernetTypeIPv4}
	udp := &layers.UDP{SrcPort: layers.UDPPort(sport), DstPort: layers.UDPPort(dport)}
	var ip gopacket.SerializableLayer
	if from.Is4() {
		v4 := &layers.IPv4{Version: 4, TTL: 64, Protocol: layers.IPProtocolUDP, SrcIP: from.AsSlice(), DstIP: to.AsSlice()}
		require.NoError(t, udp.SetNetworkLayerForChecksum(v4))
		ip = v4
	} else {
		eth.EthernetType = layers.EthernetTypeIPv6
		v6 := &layers.IPv6{Version: 6, HopLimit: 64, NextHeader: layers.IPProtocolUDP, SrcIP: from.AsSlice(), DstIP: to.AsSlice()}
		require.NoError(t, udp.SetNetworkLayerForChecksum(v6))
		ip = v6
	}
	buf := gopacket.NewSerializeBuffer()
	require.NoError(t, gopacket.SerializeLayers(buf, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, eth, ip, udp, gopacket.Payload("question")))
	return buf.Bytes()
}

// from gives the frame from another port, which is another flow. Nobody
// checks its transport checksum on the way.
func (f *asked) from(sport uint16) []byte {
	data := slices.Clone(f.frame)
	at := 34
	if data[12] == 0x86 {
		at = 54
	}
	data[at], data[at+1] = byte(sport>>8), byte(sport)
	return data
}

// passes runs a frame through a program: whether it goes on. What is dropped
// for another reason than policy is an error.
func (f *asked) passes(names *names, prog *ebpf.Program, sport uint16) (bool, error) {
	in, out := skbContext{Ifindex: uint32(f.ifindex)}, skbContext{}
	opts := ebpf.RunOptions{Data: f.from(sport), DataOut: make([]byte, 256), Context: &in, ContextOut: &out}
	if _, err := prog.Run(&opts); err != nil {
		return false, err
	}
	if out.CB[0]>>24 != noteMagic {
		return false, fmt.Errorf("%s: the program left %#x in cb[0]", f.name, out.CB[0])
	}
	switch action, reason := actions[notedVerdict(&out.CB)], names.reasons[uint8(out.CB[2]>>24)]; {
	case action == model.Forward:
		return true, nil
	case action != model.Forward && (reason == model.ReasonPolicyEgress || reason == model.ReasonPolicyIngress):
		return false, nil
	default:
		return false, fmt.Errorf("%s: %s %s", f.name, action, reason)
	}
}

// hookProgram gives the program of a hook.
func hookProgram(t testing.TB, d *Datapath, hook model.Hook) *ebpf.Program {
	t.Helper()
	prog, err := d.programs.get(hookPrograms[hook])
	require.NoError(t, err)
	return prog
}

// requireAll asks for all flows, known ones and new ones, which have to be as
// one state has them.
func (c *course) requireAll(t testing.TB, d *Datapath, state int, fresh *atomic.Uint32, when string) {
	t.Helper()
	for _, f := range c.flows {
		for _, sport := range []uint16{40000, uint16(fresh.Add(1)%20000) + 41000} {
			passes, err := f.passes(d.names, hookProgram(t, d, f.hook), sport)
			require.NoError(t, err)
			require.Equalf(t, f.allowed[state], passes, "%s: %s from port %d, which state %d allows: %t", when, f.name, sport, state, f.allowed[state])
		}
	}
}

func updateSeed(t testing.TB) uint64 {
	t.Helper()
	seed := uint64(rand.Uint32())
	if text := os.Getenv("TEST_SEED"); text != "" {
		var err error
		seed, err = strconv.ParseUint(text, 10, 64)
		require.NoError(t, err)
	}
	t.Logf("TEST_SEED=%d", seed)
	return seed
}

// updateDevices makes the pods' devices, and a way to the world.
func updateDevices(t testing.TB) []model.Device {
	t.Helper()
	addDevice(t, "world")
	world, err := netlink.LinkByName("world")
	require.NoError(t, err)
	for _, a := range []struct{ own, via string }{{"100.64.0.1/24", "100.64.0.254"}, {"fd64::1/64", "fd64::fe"}} {
		address, err := netlink.ParseAddr(a.own)
		require.NoError(t, err)
		address.Flags = 2 // IFA_F_NODAD: it counts at once
		require.NoError(t, netlink.AddrAdd(world, address))
		require.NoError(t, netlink.RouteAdd(&netlink.Route{LinkIndex: world.Attrs().Index, Gw: net.ParseIP(a.via)}))
	}
	forward(t)
	var devices []model.Device
	for i := range updatePods {
		devices = append(devices, addDevice(t, fmt.Sprintf("pod%d", i)))
	}
	return devices
}

// At no step of a change of policies does a packet pass that the old policies
// deny, or is one dropped that they allow, until the epoch turns; then at once
// the new ones hold. Beside the steps, packets come all the time, and none
// meets what neither has. TEST_ROUNDS says how many courses are run.
func TestNoStepOfAChangeOfPoliciesOpensOrClosesWhatNeitherSideWants(t *testing.T) {
	newNode(t)
	devices := updateDevices(t)
	seed := updateSeed(t)
	rounds := 3
	if text := os.Getenv("TEST_ROUNDS"); text != "" {
		var err error
		rounds, err = strconv.Atoi(text)
		require.NoError(t, err)
	}
	const length = 5
	changed, steps := 0, 0
	var fresh atomic.Uint32
	var hammered uint64
	for round := range rounds {
		c := courseOfChanges(t, seed, round, devices, length)
		now, where := 0, ""
		opts := Options{Attach: true, Flows: 4096, Unanswered: 4096}
		check := false
		var d *Datapath
		opts.Step = func(step string) {
			if !check {
				return
			}
			steps++
			state := now
			if step == "end" {
				state++
			}
			c.requireAll(t, d, state, &fresh, fmt.Sprintf("TEST_SEED=%d round %d, change %d, before the step %q", seed, round, now, step))
			where = step
		}
		d = openDatapath(t, opts)
		_, err := d.Apply(c.states[0])
		require.NoError(t, err)
		c.requireAll(t, d, 0, &fresh, "at the beginning")
		h := hammer(t, c, d)
		check = true
		for now = 0; now+1 < length; now++ {
			changed += c.changed(now, now+1)
			h.last.Store(int32(now + 1))
			_, err := d.Apply(c.states[now+1])
			require.NoError(t, err)
			h.first.Store(int32(now + 1))
			require.Equal(t, "end", where)
		}
		check = false
		n, err := h.end()
		require.NoErrorf(t, err, "TEST_SEED=%d round %d", seed, round)
		hammered += n
	}
	t.Logf("%d changes, in which %d flows are judged otherwise; asked at %d steps, and %d times between", rounds*(length-1), changed, steps, hammered)
	require.Greater(t, changed, rounds*10)
	require.Greater(t, hammered, uint64(rounds*100))
}

// courseOfChanges draws courses until one changes what becomes of more than ten flows:
// changes that change little say little.
func courseOfChanges(t *testing.T, seed uint64, round int, devices []model.Device, length int) *course {
	for try := range 100 {
		c, changed := newCourse(t, rand.New(rand.NewPCG(seed, uint64(try<<16|round))), devices, length), 0
		for now := range length - 1 {
			changed += c.changed(now, now+1)
		}
		if changed > 10 {
			return c
		}
	}
	require.FailNowf(t, "a hundred courses change little", "TEST_SEED=%d round %d", seed, round)
	return nil
}

// hammering asks for flows all the time, in a thread of its own.
type hammering struct {
	first, last atomic.Int32 // the states that may answer
	stop        atomic.Bool
	done        sync.WaitGroup
	asked       uint64
	err         error
}

func hammer(t testing.TB, c *course, d *Datapath) *hammering {
	t.Helper()
	h := &hammering{}
	ns, err := netns.Get()
	require.NoError(t, err)
	programs := map[model.Hook]*ebpf.Program{
		model.FromContainer: hookProgram(t, d, model.FromContainer), model.ToContainer: hookProgram(t, d, model.ToContainer),
	}
	h.done.Go(func() {
		runtime.LockOSThread() // and never unlock: the thread is in another namespace
		defer func() { h.err = errors.Join(h.err, ns.Close()) }()
		if h.err = netns.Set(ns); h.err != nil {
			return
		}
		for i := 0; !h.stop.Load(); i++ {
			f := c.flows[i%len(c.flows)]
			first := h.first.Load()
			passes, err := f.passes(d.names, programs[f.hook], uint16(20000+i%16))
			last := h.last.Load()
			if err == nil && !slices.Contains(f.allowed[first:last+1], passes) {
				err = fmt.Errorf("%s passes: %t, and none of the states %d to %d says so", f.name, passes, first, last)
			}
			if err != nil {
				h.err = err
				return
			}
			h.asked++
		}
	})
	return h
}

func (h *hammering) end() (uint64, error) {
	h.stop.Store(true)
	h.done.Wait()
	return h.asked, h.err
}

// telling gives two states that judge many flows otherwise.
func telling(t testing.TB, seed uint64, devices []model.Device) *course {
	t.Helper()
	for round := range uint64(100) {
		if c := newCourse(t, rand.New(rand.NewPCG(seed, round)), devices, 2); c.changed(0, 1) > len(c.flows)/10 {
			return c
		}
	}
	require.Fail(t, "no change changes much", "TEST_SEED=%d", seed)
	return nil
}

const dyingEnv = "WEIR_TEST_POLICY_LOADER"

// The loader that TestALoaderKilledInAChangeOfPoliciesLeavesTheOldOnesOrTheNew
// starts. It takes its seed, its pins and the number of the step from there.
func TestLoaderOfPoliciesThatIsKilled(t *testing.T) {
	at, pins := os.Getenv(dyingEnv), os.Getenv(dyingEnv+"_PINS")
	if at == "" {
		t.Skip("a part of another test, which starts it")
	}
	kill, err := strconv.Atoi(at)
	require.NoError(t, err)
	seed, err := strconv.ParseUint(os.Getenv(dyingEnv+"_SEED"), 10, 64)
	require.NoError(t, err)
	var devices []model.Device
	for i := range updatePods {
		device, err := existingDevice(fmt.Sprintf("pod%d", i))
		require.NoError(t, err)
		devices = append(devices, device)
	}
	c := telling(t, seed, devices)
	opts, step := pinnedOptions(pins), 0
	opts.Step = func(string) {
		if step++; step == kill {
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {}
		}
	}
	d, err := Open(opts)
	require.NoError(t, err)
	_, err = d.Apply(c.states[1])
	require.NoError(t, err)
	require.NoError(t, d.Close())
}

func TestALoaderKilledInAChangeOfPoliciesLeavesTheOldOnesOrTheNew(t *testing.T) {
	newNode(t)
	if have, err := haveTCX(); err != nil || !have {
		t.Skip("kernel before 6.6: clsact has no links to ask the programs by")
	}
	devices := updateDevices(t)
	dir := pinDir(t)
	seed := updateSeed(t)
	c := telling(t, seed, devices)
	restore := func() {
		d, err := Open(pinnedOptions(dir))
		require.NoError(t, err)
		_, err = d.Apply(c.states[0])
		require.NoError(t, err)
		require.NoError(t, d.Close())
	}
	outcomes := map[string]int{}
	restore()
	// Of some steps: a loader takes its time to begin.
	const stride = 4
	for at, ended := 1+int(seed%stride), false; !ended; at += stride {
		cmd := exec.Command("/proc/self/exe", "-test.run=^TestLoaderOfPoliciesThatIsKilled$")
		cmd.Env = append(os.Environ(), dyingEnv+"="+strconv.Itoa(at), dyingEnv+"_PINS="+dir, fmt.Sprintf("%s_SEED=%d", dyingEnv, seed))
		said, err := cmd.CombinedOutput()
		if ended = err == nil; !ended {
			var exit *exec.ExitError
			require.ErrorAs(t, err, &exit)
			require.Equalf(t, syscall.SIGKILL, exit.Sys().(syscall.WaitStatus).Signal(), "the loader failed: %s", said)
		}
		old, new := c.askPinned(t, dir, at)
		require.Truef(t, old || new, "TEST_SEED=%d: killed at step %d, what is left is neither the old policies nor the new", seed, at)
		outcomes[fmt.Sprintf("old %t, new %t", old, new)]++
		require.False(t, ended && !new, "a change that ended has the new ones")
		restore()
	}
	t.Logf("%d of %d flows are judged otherwise; what was left: %v", c.changed(0, 1), len(c.flows), outcomes)
}

// askPinned asks the attached programs, and says whether all flows are as the
// first state has them, and whether as the second.
func (c *course) askPinned(t *testing.T, dir string, round int) (old, new bool) {
	t.Helper()
	spec, err := bpf.LoadContainer()
	require.NoError(t, err)
	names, err := readNames(spec.Types)
	require.NoError(t, err)
	programs := map[model.Hook]*ebpf.Program{}
	old, new = true, true
	for i, f := range c.flows {
		if programs[f.hook] == nil {
			kind := map[model.Hook]ebpf.AttachType{model.FromContainer: ebpf.AttachTCXIngress, model.ToContainer: ebpf.AttachTCXEgress}[f.hook]
			programs[f.hook] = pinnedProgram(t, filepath.Join(dir, "links", fmt.Sprintf(linkName, kind, f.ifindex)))
		}
		passes, err := f.passes(names, programs[f.hook], uint16(10000+(round*len(c.flows)+i)%30000))
		require.NoError(t, err)
		old, new = old && passes == f.allowed[0], new && passes == f.allowed[1]
	}
	return old, new
}

func pinnedProgram(t *testing.T, path string) *ebpf.Program {
	t.Helper()
	l, err := link.LoadPinnedLink(path, nil)
	require.NoError(t, err)
	defer func() { require.NoError(t, l.Close()) }()
	info, err := l.Info()
	require.NoError(t, err)
	prog, err := ebpf.NewProgramFromID(info.Program)
	require.NoError(t, err)
	t.Cleanup(func() { _ = prog.Close() })
	return prog
}

// crowd is a rule set that takes most of the table.
func crowd(key string, first model.Identity) model.RuleSet {
	set := model.RuleSet{Key: key, Rules: []model.Rule{{Direction: model.Egress}}}
	for i := range 132_000 {
		set.Rules = append(set.Rules, model.Rule{Direction: model.Ingress, Peer: first + model.Identity(i), Protocol: model.ProtocolTCP, Port: 22, PortBits: 16})
	}
	return set
}

func TestPoliciesThatDoNotFitBesideThoseInUseAreRefusedAndNothingOpens(t *testing.T) {
	n := newNode(t)
	d := openDatapath(t, small())
	with := func(set model.RuleSet) *model.State {
		s := newState(n.client, n.web)
		s.RuleSets = append(s.RuleSets, set)
		s.Endpoints[1].RuleSet = set.Key
		return s
	}
	web := func(sport, port uint16, action model.Action) {
		run(t, d, n.client, tcpFrame(t, "10.0.0.1", "10.0.0.2", sport, port, syn), action)
	}
	_, err := d.Apply(with(crowd("one", clientIdentity)))
	require.NoError(t, err)
	web(1000, 22, model.Forward)
	web(1001, 23, model.Drop)

	added := addDevice(t, "added")
	other := with(crowd("two", webIdentity))
	other.Endpoints = append(other.Endpoints, model.Endpoint{Name: model.Key{Namespace: "default", Name: "added"}, Device: added, IPv4: addr("10.0.0.3"), Identity: 302, RuleSet: "all"})
	_, err = d.Apply(other)
	var full *FullError
	require.ErrorAs(t, err, &full)
	require.Equal(t, "rules", full.Table)
	require.ErrorContains(t, err, "rules")
	web(1002, 22, model.Forward)
	web(1003, 23, model.Drop)
	ran := run(t, d, added, tcpFrame(t, "10.0.0.3", "10.0.0.2", 1004, 22, syn), model.Drop)
	require.Equal(t, model.ReasonNoEndpoint, ran.Decision.Reason, "a pod that was not let in gets nowhere")

	_, err = d.Apply(with(allowAll()))
	require.NoError(t, err, "what fits is applied, and makes room")
	_, err = d.Apply(other)
	require.NoError(t, err)
	web(1005, 22, model.Drop)
}

// A table that the kernel does not make is an error that names it; what an
// earlier loader left goes on.
func TestATableThatTheKernelDoesNotMakeIsNamedAndTheOldProgramsStay(t *testing.T) {
	n := newNode(t)
	n.state.RuleSets[0] = model.RuleSet{Key: "all", Rules: []model.Rule{{Direction: model.Egress},
		{Direction: model.Ingress, Protocol: model.ProtocolTCP, Port: 80, PortBits: 16}}}
	dir := pinDir(t)
	d, err := Open(pinnedOptions(dir))
	require.NoError(t, err)
	_, err = d.Apply(n.state.Clone())
	require.NoError(t, err)
	require.NoError(t, d.Close())

	huge := pinnedOptions(dir)
	huge.Flows = 1 << 31
	_, err = Open(huge)
	require.ErrorContains(t, err, bpf.ContainerMapCtAnswered)
	if have, err := haveTCX(); err == nil && have {
		answers := askPrograms(t, dir, n, 20000)
		require.Contains(t, answers, fmt.Sprintf("10.0.0.2:80 verdict %d to port 80", verdictOf(t, model.Forward)))
		require.Contains(t, answers, fmt.Sprintf("10.0.0.2:22 verdict %d to port 22", verdictOf(t, model.Drop)))
	}
	huge.PinPath = ""
	_, err = Open(huge)
	require.ErrorContains(t, err, bpf.ContainerMapCtAnswered)
}

// verdictOf is the number by which a program notes an action.
func verdictOf(t *testing.T, action model.Action) uint8 {
	t.Helper()
	for number, name := range actions {
		if name == action {
			return number
		}
	}
	require.Fail(t, "no such action", action)
	return 0
}
