// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"cmp"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/weirnet/weir/bpf"
	"github.com/weirnet/weir/model"
)

// desired is a state as tables hold it.
type desired struct {
	nodes     map[uint32]nodeHalf
	tunnels   map[uint32]tunnelHalf
	endpoints map[uint32]endpointHalf
	ipcache   map[tableAddr]ipcacheHalf
	cidrs     map[cidrKey]ipcacheHalf
	services  map[serviceKey]serviceHalf
	backends  map[backendKey]backendHalf // where changes is set
	// allBackends are those of a whole state.
	allBackends []staged[backendKey, backendHalf]

	newRules   []encoded
	newSlots   []newList
	newSources map[uint32][]sourceKey
	newMaglev  []maglevTable

	devices, uplinks map[uint32]string // names of devices by ifindex
	names            stateNames

	hosts  []netip.Addr     // the node's own addresses, each once
	groups map[group]uint32 // numbers of groups
	nextID uint32           // of services
	// firstID and those from there on are numbers that no service has had: packets
	// do not know of their backends before they know of them.
	firstID uint32

	// changes are what services, backends, addresses and tunnels hold: differences from
	// the half that packets read, not all of a half.
	changes bool
	// sameOwn is what is the node's own as in the state before, rules too.
	sameOwn bool
	// sameCIDRs are those of the state before.
	sameCIDRs bool
	// renamed are services that the state before has not, or by another name.
	renamed map[uint32]ServiceName
}

// Apply makes the tables equal to state by the smallest change. Packets meet
// the old state or the new one, never a part of it; when Apply fails or the
// process dies in it, the old state stays.
//
// The order: rules, lists and tables of backends that are new; the half of every table that
// packets do not read; programs on new devices; what of it concerns which flows; then
// the epoch, by one write.
// What nobody uses any more is deleted when packets of the old epoch are gone:
// by the next Apply or Collect.
//
// What differs from the state before is encoded and written, and no more: so
// Apply keeps the state, and nobody may change it, or what its slices hold, from
// then on. A slice that two states share is not looked into.
//
// One Apply runs at a time. What Connect puts into force meanwhile stays.
func (d *Datapath) Apply(state *model.State) (Change, error) {
	d.takeTurn()
	change, err := d.applyNow(state)
	ended := err == nil && d.attached.cgroup.path != "" && d.backendsGone()
	d.applying.Unlock()
	if ended {
		err = d.endDatagrams()
	}
	return change, err
}

// takeTurn waits until packets of the half before are gone, and takes applying.
func (d *Datapath) takeTurn() {
	for {
		d.applying.Lock()
		left := d.unsettled()
		if left <= 0 {
			return
		}
		d.applying.Unlock()
		time.Sleep(left)
		d.mu.Lock()
		d.spent.Waiting += left
		d.mu.Unlock()
	}
}

// unsettled is how long packets may still read the half of before.
func (d *Datapath) unsettled() time.Duration {
	if !d.opts.Attach {
		return 0
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	return time.Until(d.flipped.Add(settle))
}

// applyNow is called with applying held.
func (d *Datapath) applyNow(state *model.State) (Change, error) {
	if d.connects(state) {
		if err := d.tend(); err != nil {
			return Change{}, err
		}
	}
	if err := d.sweep(); err != nil {
		return Change{}, err
	}
	return d.enforce(d.withLoopback(state))
}

// connects is whether devices may get or lose programs by a state: it has other
// endpoints or another node than the one in force.
func (d *Datapath) connects(state *model.State) bool {
	d.mu.Lock()
	ahead := len(d.ahead)
	d.mu.Unlock()
	return ahead > 0 || d.last == nil || !d.last.hasOwn(state)
}

// enforce puts a state into force. It is called with applying held.
func (d *Datapath) enforce(state *model.State) (Change, error) {
	d.takeIn(state)
	// Until all of it is in force, nothing is known to begin from.
	last := d.last
	d.last = nil
	want, err := d.planFrom(last, state)
	if err != nil {
		return Change{}, err
	}
	if d.opts.Attach && len(want.uplinks) > 0 {
		begun := time.Now()
		if err := d.programs.need(); err != nil {
			return Change{}, err
		}
		d.spend(&d.spent.Loading, begun)
	}
	change, err := d.stage(want)
	if err != nil {
		return Change{}, err
	}
	attach := d.opts.Attach && !(want.sameOwn && d.attached.isWhole())
	if attach {
		begun := time.Now()
		if err := d.attached.attach(want.devices, want.uplinks); err != nil {
			return Change{}, err
		}
		d.spend(&d.spent.Attaching, begun)
	}
	if err := d.writeLabels(want); err != nil {
		return Change{}, err
	}
	d.opts.Step("turn the epoch")
	if change.Epoch, err = d.turn(want, last != nil); err != nil {
		return Change{}, err
	}
	d.opts.Step("end")
	d.wanted = want.cidrs
	d.last, d.inForce = d.remember(last, state, want), state
	if !attach {
		return change, nil
	}
	return change, d.attached.release(want.uplinks)
}

// turn gives packets the other half, has those flows judged anew that the difference
// concerns, and gives events the names of its state. The state before is known, or not.
func (d *Datapath) turn(want *desired, known bool) (epoch uint32, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.noteChanges(d.settings.Epoch+1, known); err != nil {
		return 0, err
	}
	d.settings.Epoch++
	if err := d.writeSettings(); err != nil {
		d.settings.Epoch--
		return 0, err
	}
	d.flipped = time.Now()
	d.labels.stateNames = want.names
	for ifindex, e := range d.ahead {
		d.labels.Endpoints = withName(d.labels.Endpoints, ifindex, e.name)
	}
	return d.settings.Epoch, nil
}

func (d *Datapath) spend(of *time.Duration, since time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	*of += time.Since(since)
}

// Spent is what Apply has spent so far, beside its tables.
type Spent struct {
	Loading   time.Duration // programs that earlier states did not need
	Attaching time.Duration // programs to devices and cgroups
	Waiting   time.Duration // until packets of the epoch before were gone
}

// Spent gives what Apply has spent so far besides writing tables.
func (d *Datapath) Spent() Spent {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.spent
}

// half is the one that packets read now. It stays so while applying is held.
func (d *Datapath) half() int { return int(d.epoch() & 1) }

func (d *Datapath) epoch() uint32 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.settings.Epoch
}

// plan encodes a state. It changes nothing.
func (d *Datapath) plan(state *model.State) (*desired, error) {
	want, err := d.planOwn(state)
	if err != nil {
		return nil, err
	}
	want.names.Services = map[uint32]ServiceName{}
	if err := planTunnelEndpoints(state, want); err != nil {
		return nil, err
	}
	planIPCache(state, want)
	if err := d.planServices(state, want); err != nil {
		return nil, err
	}
	return want, d.room(want)
}

// planOwn encodes what is the node's own: itself, its pods and their rules.
func (d *Datapath) planOwn(state *model.State) (*desired, error) {
	want := &desired{devices: map[uint32]string{}, names: newStateNames(state.Node.Name), hosts: hostsOf(&state.Node)}
	want.names.Lifetimes = d.opts.Lifetimes
	sets, err := d.planRules(state, want)
	if err != nil {
		return nil, err
	}
	if err := d.planEndpoints(state, sets, want); err != nil {
		return nil, err
	}
	return want, planNode(state, sets, want)
}

// room refuses a state that does not fit, before anything is written.
func (d *Datapath) room(want *desired) error {
	for _, err := range []error{
		d.nodes.room(want.nodes), d.endpoints.room(want.endpoints),
		d.ipcache.room(want.ipcache), d.cidrs.room(want.cidrs), d.tunnels.room(want.tunnels),
	} {
		if err != nil {
			return fmt.Errorf("apply state: %w", err)
		}
	}
	return nil
}

// planRules gives the number of each rule set by its key.
func (d *Datapath) planRules(state *model.State, want *desired) (map[string]uint32, error) {
	missing, sets, err := d.rules.missing(state.RuleSets, d.number)
	if err != nil {
		return nil, fmt.Errorf("apply state: %w", err)
	}
	want.newRules = missing
	return sets, nil
}

// number gives an origin its number.
func (d *Datapath) number(o model.Origin) uint32 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.labels.number(o)
}

func (d *Datapath) planEndpoints(state *model.State, sets map[string]uint32, want *desired) error {
	base := endpointHalf{
		Gateway4: encodeAddr(firstOf(state.Node.Gateways, netip.Addr.Is4)),
		Gateway6: encodeAddr(firstOf(state.Node.Gateways, netip.Addr.Is6)),
		Hairpin4: encodeAddr(firstOf(state.Node.Addresses, netip.Addr.Is4)),
		Hairpin6: encodeAddr(firstOf(state.Node.Addresses, netip.Addr.Is6)),
	}
	want.endpoints = map[uint32]endpointHalf{}
	for i := range state.Endpoints {
		ep := &state.Endpoints[i]
		ifindex := uint32(ep.Device.Ifindex)
		if ep.Device.Ifindex <= 0 {
			return fmt.Errorf("apply state: endpoint %s has no device: its ifindex is %d", ep.Name, ep.Device.Ifindex)
		}
		if other, ok := want.names.Endpoints[ifindex]; ok {
			return fmt.Errorf("apply state: endpoints %s and %s have one device, ifindex %d", other, ep.Name, ifindex)
		}
		want.names.Endpoints[ifindex] = ep.Name
		want.devices[ifindex] = ep.Device.Name
		set, ok := sets[ep.RuleSet]
		if !ok && ep.RuleSet != "" {
			return fmt.Errorf("apply state: endpoint %s wants rule set %q, which the state does not have", ep.Name, ep.RuleSet)
		}
		if !ok || ep.Identity == model.IdentityUnknown {
			continue // no policy state: absent, so nothing passes
		}
		half := base
		half.Set, half.Identity = set, uint32(ep.Identity)
		half.Addr4, half.Addr6 = encodeAddr(ep.IPv4), encodeAddr(ep.IPv6)
		if own := firstOf(ep.Device.Gateways, netip.Addr.Is4); own.IsValid() {
			half.Gateway4 = encodeAddr(own)
		}
		if own := firstOf(ep.Device.Gateways, netip.Addr.Is6); own.IsValid() {
			half.Gateway6 = encodeAddr(own)
		}
		if err := copyMAC(&half.Mac, ep.Device.MAC); err != nil {
			return fmt.Errorf("apply state: endpoint %s, host side: %w", ep.Name, err)
		}
		if err := copyMAC(&half.PodMac, ep.Device.PodMAC); err != nil {
			return fmt.Errorf("apply state: endpoint %s, pod side: %w", ep.Name, err)
		}
		want.endpoints[ifindex] = half
	}
	return nil
}

// defaultMTU is Ethernet's.
const defaultMTU = 1500

// leastMTU is what passes by all uplinks, in bytes of an IP packet.
func leastMTU(uplinks []model.Uplink) uint32 {
	least := 0
	for _, u := range uplinks {
		mtu := cmp.Or(u.MTU, defaultMTU)
		if least == 0 || mtu < least {
			least = mtu
		}
	}
	return uint32(least)
}

func encodeTunnel(t model.Tunnel) bpf.ContainerTunnel {
	switch t {
	case model.TunnelIPIP:
		return bpf.ContainerTunnelTUNNEL_IPIP
	case model.TunnelGeneve:
		return bpf.ContainerTunnelTUNNEL_GENEVE
	}
	return bpf.ContainerTunnelTUNNEL_NONE
}

// planNode says what the node is, and which devices of its are uplinks.
func planNode(state *model.State, sets map[string]uint32, want *desired) error {
	want.nodes, want.uplinks = map[uint32]nodeHalf{}, map[uint32]string{}
	set, ok := sets[state.Node.RuleSet]
	if !ok && state.Node.RuleSet != "" {
		return fmt.Errorf("apply state: node %s wants rule set %q, which the state does not have", state.Node.Name, state.Node.RuleSet)
	}
	if state.Node.RuleSet != "" {
		want.nodes[0] = nodeHalf{Mtu: leastMTU(state.Node.Uplinks), Set: set}
	}
	if m := state.Node.Masquerade; m != nil {
		if m.FirstPort == 0 || m.LastPort < m.FirstPort {
			return fmt.Errorf("apply state: node %s masquerades with the ports %d to %d: they are no range", state.Node.Name, m.FirstPort, m.LastPort)
		}
		if int(m.NodePorts) > int(m.LastPort-m.FirstPort) {
			return fmt.Errorf("apply state: node %s keeps %d of the ports %d to %d for itself: pods would have none", state.Node.Name, m.NodePorts, m.FirstPort, m.LastPort)
		}
		want.nodes[0] = nodeHalf{
			Masquerade4: encodeAddr(m.IPv4), Masquerade6: encodeAddr(m.IPv6),
			FirstPort: m.FirstPort, LastPort: m.LastPort, OwnPorts: m.NodePorts,
			Mtu: leastMTU(state.Node.Uplinks), Tunnel: uint8(encodeTunnel(state.Node.Tunnel)),
			Set: want.nodes[0].Set,
		}
	}
	for _, u := range state.Node.Uplinks {
		ifindex := uint32(u.Ifindex)
		if u.Ifindex <= 0 {
			return fmt.Errorf("apply state: uplink %s is no device: its ifindex is %d", u.Name, u.Ifindex)
		}
		if name, ok := want.names.Endpoints[ifindex]; ok {
			return fmt.Errorf("apply state: uplink %s is the device of endpoint %s too, ifindex %d", u.Name, name, u.Ifindex)
		}
		if other, ok := want.uplinks[ifindex]; ok {
			return fmt.Errorf("apply state: uplinks %s and %s are one device, ifindex %d", other, u.Name, u.Ifindex)
		}
		want.uplinks[ifindex] = u.Name
	}
	return nil
}

func firstOf(addrs []netip.Addr, is func(netip.Addr) bool) netip.Addr {
	for _, a := range addrs {
		if is(a) {
			return a
		}
	}
	return netip.Addr{}
}

func copyMAC(to *[6]uint8, from net.HardwareAddr) error {
	if len(from) != len(to) {
		return fmt.Errorf("MAC %q has %d bytes, not 6", from, len(from))
	}
	copy(to[:], from)
	return nil
}

// hostsOf are the addresses of a node itself.
func hostsOf(n *model.Node) []netip.Addr {
	hosts := slices.Concat(n.Addresses, n.Gateways)
	for i := range hosts {
		hosts[i] = hosts[i].Unmap()
	}
	slices.SortFunc(hosts, netip.Addr.Compare)
	return slices.Compact(hosts)
}

func planIPCache(state *model.State, want *desired) {
	want.ipcache = make(map[tableAddr]ipcacheHalf, state.Addresses.Len())
	for a := range state.Addresses.All() {
		if a.Prefix.IsSingleIP() {
			want.ipcache[encodeAddr(a.Prefix.Addr())] = encodeAddress(a)
		}
	}
	planCIDRs(state, want)
	addOwn(state, want, func(tableAddr) bool { return true })
}

func planCIDRs(state *model.State, want *desired) {
	want.cidrs = map[cidrKey]ipcacheHalf{}
	for a := range state.Addresses.All() {
		if !a.Prefix.IsSingleIP() {
			want.cidrs[encodePrefix(a.Prefix)] = encodeAddress(a)
		}
	}
	fenceIPv4(want.cidrs)
}

func encodeAddress(a *model.Address) ipcacheHalf {
	return ipcacheHalf{Identity: uint32(a.Identity), Flags: addressFlags(*a), TunnelEndpoint: a.TunnelEndpoint}
}

// addOwn says which of some addresses are the node's, and its pods'.
func addOwn(state *model.State, want *desired, concerns func(tableAddr) bool) {
	for _, addr := range want.hosts {
		key := encodeAddr(addr)
		if !concerns(key) {
			continue
		}
		half := want.ipcache[key]
		half.Flags |= uint8(bpf.ContainerIpcacheFlagsIPCACHE_HOST)
		if half.Identity == 0 {
			half.Identity = uint32(model.IdentityHost)
		}
		want.ipcache[key] = half
	}
	for i := range state.Endpoints {
		ep := &state.Endpoints[i]
		for _, a := range []netip.Addr{ep.IPv4, ep.IPv6} {
			if key := encodeAddr(a); a.IsValid() && concerns(key) {
				half := want.ipcache[key]
				half.Ifindex = uint32(ep.Device.Ifindex)
				// What peers are told of it is the table's; an endpoint that
				// the table does not know has no policy of anybody's for it.
				if half.Identity == 0 {
					half.Identity = uint32(cmp.Or(ep.Identity, model.IdentityUnmanaged))
				}
				want.ipcache[key] = half
			}
		}
	}
}

func addressFlags(a model.Address) uint8 {
	var flags bpf.ContainerIpcacheFlags
	if a.Native {
		flags |= bpf.ContainerIpcacheFlagsIPCACHE_NATIVE
	}
	if a.Node {
		flags |= bpf.ContainerIpcacheFlagsIPCACHE_NODE
	}
	return uint8(flags)
}

// stageCIDRs writes one half of the prefixes. The table finds the longest
// prefix whichever half has it: so a half that does not have a prefix repeats
// there what the next shorter one says.
func (d *Datapath) stageCIDRs(half int, want map[cidrKey]ipcacheHalf) error {
	all := maps.Clone(want)
	for key := range d.cidrs.have {
		if _, ok := want[key]; !ok {
			all[key] = inherited(want, key)
		}
	}
	active := map[cidrKey]ipcacheHalf{}
	for key, pair := range d.cidrs.have {
		active[key] = pair[1-half]
	}
	for key := range want {
		if _, ok := d.cidrs.have[key]; !ok {
			var pair [2]ipcacheHalf
			pair[1-half] = inherited(active, key)
			d.cidrs.put(key, pair)
		}
	}
	_, err := d.cidrs.stage(half, all, never)
	return err
}

// sweepCIDRs deletes the prefixes that only repeat a shorter one.
func (d *Datapath) sweepCIDRs() error {
	// Of a loader before this one, all of them count.
	if d.wanted == nil || len(d.wanted) == len(d.cidrs.have) {
		return nil
	}
	for key := range d.cidrs.have {
		if _, ok := d.wanted[key]; ok {
			continue
		}
		if err := d.cidrs.remove(key); err != nil {
			return err
		}
	}
	return nil
}

// fenceIPv4 keeps IPv6 prefixes that cover the IPv4-mapped addresses, such as
// ::/0, from answering for IPv4: the table has both families in one tree.
func fenceIPv4(prefixes map[cidrKey]ipcacheHalf) {
	all4 := encodePrefix(netip.PrefixFrom(netip.IPv4Unspecified(), 0))
	if _, ok := prefixes[all4]; !ok && len(prefixes) > 0 {
		prefixes[all4] = ipcacheHalf{Identity: uint32(model.IdentityWorld)}
	}
}

// inherited is what the longest prefix of a set that covers key says: the
// world, if there is none.
func inherited(set map[cidrKey]ipcacheHalf, key cidrKey) ipcacheHalf {
	addr := decodeAddr16(key.Addr)
	for bits := int(key.Bits) - 1; bits >= 0; bits-- {
		p := netip.PrefixFrom(addr, bits).Masked()
		if half, ok := set[cidrKey{Bits: uint32(bits), Addr: fromBytes(p.Addr().As16())}]; ok && half.Identity != 0 {
			return half
		}
	}
	return ipcacheHalf{Identity: uint32(model.IdentityWorld)}
}

func decodeAddr16(t tableAddr) netip.Addr { return netip.AddrFrom16(toBytes(t)) }

// stage writes everything but the epoch.
func (d *Datapath) stage(want *desired) (Change, error) {
	var change Change
	var err error
	d.opts.Step("write rule sets")
	var instead map[uint32]uint32
	if change.RuleSets, instead, err = d.rules.add(want.newRules); err != nil {
		return change, err
	}
	want.renumber(instead)
	d.opts.Step("write slot_rows")
	if err = d.slots.add(want.newSlots); err != nil {
		return change, err
	}
	d.opts.Step("write sources")
	if err = d.sources.add(want.newSources); err != nil {
		return change, err
	}
	d.opts.Step("write tables of backends")
	if err = d.maglev.add(want.newMaglev); err != nil {
		return change, err
	}
	half := 1 - d.half()
	d.opts.Step("write backends")
	early := func(key backendKey) bool { return key.Service >= want.firstID }
	services, addresses, tunnels := d.services.stage, d.ipcache.stage, d.tunnels.stage
	if want.changes {
		services, addresses, tunnels = d.services.stageChanges, d.ipcache.stageChanges, d.tunnels.stageChanges
		_, err = d.backends.stageChanges(half, want.backends, early)
	} else {
		_, err = d.backends.stageAll(half, want.allBackends, early)
	}
	if err != nil {
		return change, err
	}
	d.opts.Step("write services")
	if change.Services, err = services(half, want.services, never); err != nil {
		return change, err
	}
	d.opts.Step("write the node")
	nodes, endpoints := d.nodes.stage, d.endpoints.stage
	if want.sameOwn {
		nodes, endpoints = d.nodes.stageChanges, d.endpoints.stageChanges
	}
	if _, err = nodes(half, want.nodes, never); err != nil {
		return change, err
	}
	d.opts.Step("write tunnel_endpoints")
	if _, err = tunnels(half, want.tunnels, never); err != nil {
		return change, err
	}
	d.opts.Step("write ipcache_cidrs")
	if want.sameCIDRs {
		_, err = d.cidrs.stageChanges(half, nil, never)
	} else {
		err = d.stageCIDRs(half, want.cidrs)
	}
	if err != nil {
		return change, err
	}
	d.opts.Step("write ipcache")
	if change.Addresses, err = addresses(half, want.ipcache, never); err != nil {
		return change, err
	}
	d.opts.Step("write endpoints")
	change.Endpoints, err = endpoints(half, want.endpoints, never)
	return change, err
}

// renumber has rows lead to other rule sets.
func (want *desired) renumber(instead map[uint32]uint32) {
	if len(instead) == 0 {
		return
	}
	for ifindex, row := range want.endpoints {
		if set, ok := instead[row.Set]; ok {
			row.Set = set
			want.endpoints[ifindex] = row
		}
	}
	for key, row := range want.nodes {
		if set, ok := instead[row.Set]; ok {
			row.Set = set
			want.nodes[key] = row
		}
	}
}

// sweep deletes what the half in use does not have, when packets of the half before
// are gone. It is called with applying held.
func (d *Datapath) sweep() error {
	half := d.half()
	for _, table := range []interface{ sweep(int) error }{d.nodes, d.tunnels, d.endpoints, d.ipcache, d.services, d.backends} {
		if err := table.sweep(half); err != nil {
			return err
		}
	}
	if err := d.sweepCIDRs(); err != nil {
		return err
	}
	if err := d.sweepRules(half); err != nil {
		return err
	}
	return d.sweepServices(half)
}

// tend makes pins again that are gone, and forgets the programs of devices that are. It
// is called with applying held, before devices get programs, and by the collector: it
// costs what is attached.
func (d *Datapath) tend() error {
	if err := d.mendPins(); err != nil {
		return err
	}
	return d.attached.sweep()
}

// sweepRules deletes the sets that the half in use does not have. While no row is
// another than before, none is.
func (d *Datapath) sweepRules(half int) error {
	d.mu.Lock()
	moved := d.endpoints.uneven.len() > 0
	d.mu.Unlock()
	if moved || d.nodes.uneven.len() > 0 {
		d.rules.look()
	}
	return d.rules.sweep(func() map[uint32]bool {
		used := map[uint32]bool{}
		for _, pair := range d.endpoints.have {
			used[pair[half].Set] = true
		}
		for _, pair := range d.nodes.have {
			used[pair[half].Set] = true
		}
		return used
	})
}
