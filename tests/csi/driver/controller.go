package main

import (
	"context"
	"strconv"
	"sync"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

const (
	bytesDefault = 1 << 20
	bytesMax     = 1 << 40
)

type controller struct {
	csi.UnimplementedControllerServer
	mutex sync.Mutex
	store store
}

func (c *controller) ControllerGetCapabilities(context.Context, *csi.ControllerGetCapabilitiesRequest) (*csi.ControllerGetCapabilitiesResponse, error) {
	answer := &csi.ControllerGetCapabilitiesResponse{}
	for _, kind := range []csi.ControllerServiceCapability_RPC_Type{
		csi.ControllerServiceCapability_RPC_CREATE_DELETE_VOLUME,
		csi.ControllerServiceCapability_RPC_PUBLISH_UNPUBLISH_VOLUME,
		csi.ControllerServiceCapability_RPC_LIST_VOLUMES,
		csi.ControllerServiceCapability_RPC_EXPAND_VOLUME,
	} {
		rpc := &csi.ControllerServiceCapability_RPC{Type: kind}
		answer.Capabilities = append(answer.Capabilities, &csi.ControllerServiceCapability{Type: &csi.ControllerServiceCapability_Rpc{Rpc: rpc}})
	}
	return answer, nil
}

func described(v *volume) *csi.Volume {
	return &csi.Volume{VolumeId: v.ID, CapacityBytes: v.Bytes, VolumeContext: map[string]string{"made-by": name}}
}

func supported(capabilities []*csi.VolumeCapability) error {
	if len(capabilities) == 0 {
		return invalid("volume_capabilities")
	}
	for _, one := range capabilities {
		if one.GetMount() == nil && one.GetBlock() == nil || one.GetAccessMode() == nil {
			return invalid("a capability to mount or to use as a device")
		}
	}
	return nil
}

func (c *controller) CreateVolume(_ context.Context, r *csi.CreateVolumeRequest) (*csi.CreateVolumeResponse, error) {
	if r.Name == "" {
		return nil, invalid("name")
	}
	if err := supported(r.VolumeCapabilities); err != nil {
		return nil, err
	}
	c.mutex.Lock()
	defer c.mutex.Unlock()
	bytes := max(r.GetCapacityRange().GetRequiredBytes(), bytesDefault)
	if limit := r.GetCapacityRange().GetLimitBytes(); bytes > bytesMax || limit > 0 && bytes > limit {
		return nil, status.Error(codes.OutOfRange, "no volume is so large")
	}
	if known, err := c.store.get(r.Name); err == nil {
		if known.Bytes != bytes {
			return nil, status.Errorf(codes.AlreadyExists, "volume %q has %d bytes", r.Name, known.Bytes)
		}
		return &csi.CreateVolumeResponse{Volume: described(known)}, nil
	}
	made := &volume{ID: r.Name, Bytes: bytes}
	if err := c.store.put(made); err != nil {
		return nil, err
	}
	return &csi.CreateVolumeResponse{Volume: described(made)}, nil
}

func (c *controller) DeleteVolume(_ context.Context, r *csi.DeleteVolumeRequest) (*csi.DeleteVolumeResponse, error) {
	if r.VolumeId == "" {
		return nil, invalid("volume_id")
	}
	c.mutex.Lock()
	defer c.mutex.Unlock()
	known, err := c.store.get(r.VolumeId)
	if status.Code(err) == codes.NotFound {
		return &csi.DeleteVolumeResponse{}, nil
	}
	if err == nil && known.Node != "" {
		return nil, status.Errorf(codes.FailedPrecondition, "volume %q is attached to %q", r.VolumeId, known.Node)
	}
	return &csi.DeleteVolumeResponse{}, c.store.remove(r.VolumeId)
}

func (c *controller) ControllerPublishVolume(_ context.Context, r *csi.ControllerPublishVolumeRequest) (*csi.ControllerPublishVolumeResponse, error) {
	if r.VolumeId == "" || r.NodeId == "" || r.VolumeCapability == nil {
		return nil, invalid("volume_id, node_id or volume_capability")
	}
	c.mutex.Lock()
	defer c.mutex.Unlock()
	known, err := c.store.get(r.VolumeId)
	if err != nil {
		return nil, err
	}
	if !c.store.hasNode(r.NodeId) {
		return nil, status.Errorf(codes.NotFound, "there is no node %q", r.NodeId)
	}
	if known.Node != "" && known.Node != r.NodeId {
		return nil, status.Errorf(codes.FailedPrecondition, "volume %q is attached to %q", r.VolumeId, known.Node)
	}
	known.Node = r.NodeId
	if err := c.store.put(known); err != nil {
		return nil, err
	}
	return &csi.ControllerPublishVolumeResponse{PublishContext: map[string]string{"attached-to": r.NodeId}}, nil
}

func (c *controller) ControllerUnpublishVolume(_ context.Context, r *csi.ControllerUnpublishVolumeRequest) (*csi.ControllerUnpublishVolumeResponse, error) {
	if r.VolumeId == "" {
		return nil, invalid("volume_id")
	}
	c.mutex.Lock()
	defer c.mutex.Unlock()
	known, err := c.store.get(r.VolumeId)
	if err == nil && (r.NodeId == "" || known.Node == r.NodeId) {
		known.Node = ""
		err = c.store.put(known)
	}
	if err != nil && status.Code(err) != codes.NotFound {
		return nil, err
	}
	return &csi.ControllerUnpublishVolumeResponse{}, nil
}

func (c *controller) ValidateVolumeCapabilities(_ context.Context, r *csi.ValidateVolumeCapabilitiesRequest) (*csi.ValidateVolumeCapabilitiesResponse, error) {
	if r.VolumeId == "" {
		return nil, invalid("volume_id")
	}
	if err := supported(r.VolumeCapabilities); err != nil {
		return nil, err
	}
	if _, err := c.store.get(r.VolumeId); err != nil {
		return nil, err
	}
	confirmed := &csi.ValidateVolumeCapabilitiesResponse_Confirmed{VolumeCapabilities: r.VolumeCapabilities}
	return &csi.ValidateVolumeCapabilitiesResponse{Confirmed: confirmed}, nil
}

func (c *controller) ListVolumes(_ context.Context, r *csi.ListVolumesRequest) (*csi.ListVolumesResponse, error) {
	all, start := c.store.all(), 0
	if r.StartingToken != "" {
		parsed, err := strconv.Atoi(r.StartingToken)
		if err != nil || parsed > len(all) {
			return nil, status.Errorf(codes.Aborted, "%q is no token", r.StartingToken)
		}
		start = parsed
	}
	answer := &csi.ListVolumesResponse{}
	for index, one := range all[start:] {
		if r.MaxEntries > 0 && index == int(r.MaxEntries) {
			answer.NextToken = strconv.Itoa(start + index)
			break
		}
		answer.Entries = append(answer.Entries, &csi.ListVolumesResponse_Entry{Volume: described(one)})
	}
	return answer, nil
}

func (c *controller) ControllerExpandVolume(_ context.Context, r *csi.ControllerExpandVolumeRequest) (*csi.ControllerExpandVolumeResponse, error) {
	if r.VolumeId == "" || r.CapacityRange == nil {
		return nil, invalid("volume_id or capacity_range")
	}
	c.mutex.Lock()
	defer c.mutex.Unlock()
	known, err := c.store.get(r.VolumeId)
	if err != nil {
		return nil, err
	}
	known.Bytes = max(known.Bytes, r.CapacityRange.RequiredBytes)
	if err := c.store.put(known); err != nil {
		return nil, err
	}
	return &csi.ControllerExpandVolumeResponse{CapacityBytes: known.Bytes, NodeExpansionRequired: true}, nil
}
