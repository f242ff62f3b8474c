package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

type nodeService struct {
	csi.UnimplementedNodeServer
	store store
	node  string
}

func (n *nodeService) NodeGetInfo(context.Context, *csi.NodeGetInfoRequest) (*csi.NodeGetInfoResponse, error) {
	return &csi.NodeGetInfoResponse{NodeId: n.node, MaxVolumesPerNode: 3}, nil
}

func (n *nodeService) NodeGetCapabilities(context.Context, *csi.NodeGetCapabilitiesRequest) (*csi.NodeGetCapabilitiesResponse, error) {
	answer := &csi.NodeGetCapabilitiesResponse{}
	for _, kind := range []csi.NodeServiceCapability_RPC_Type{
		csi.NodeServiceCapability_RPC_STAGE_UNSTAGE_VOLUME,
		csi.NodeServiceCapability_RPC_EXPAND_VOLUME,
	} {
		rpc := &csi.NodeServiceCapability_RPC{Type: kind}
		answer.Capabilities = append(answer.Capabilities, &csi.NodeServiceCapability{Type: &csi.NodeServiceCapability_Rpc{Rpc: rpc}})
	}
	return answer, nil
}

// Whether something is mounted there.
func mounted(path string) bool {
	table, _ := os.ReadFile("/proc/self/mountinfo")
	for line := range strings.Lines(string(table)) {
		if fields := strings.Fields(line); len(fields) > 4 && fields[4] == path {
			return true
		}
	}
	return false
}

func bind(source, target string, readonly bool) error {
	if mounted(target) {
		return nil
	}
	if err := os.MkdirAll(target, 0o755); err != nil {
		return status.Error(codes.Internal, err.Error())
	}
	err := unix.Mount(source, target, "", unix.MS_BIND, "")
	if err == nil && readonly {
		err = unix.Mount("", target, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY, "")
	}
	if err != nil {
		return status.Errorf(codes.Internal, "cannot mount %s: %v", target, err)
	}
	return nil
}

func unbind(target string) error {
	if mounted(target) {
		if err := unix.Unmount(target, 0); err != nil {
			return status.Errorf(codes.Internal, "cannot unmount %s: %v", target, err)
		}
	}
	if err := os.Remove(target); err != nil && !errors.Is(err, os.ErrNotExist) {
		return status.Error(codes.Internal, err.Error())
	}
	return nil
}

func (n *nodeService) NodeStageVolume(_ context.Context, r *csi.NodeStageVolumeRequest) (*csi.NodeStageVolumeResponse, error) {
	if r.VolumeId == "" || r.StagingTargetPath == "" || r.VolumeCapability == nil {
		return nil, invalid("volume_id, staging_target_path or volume_capability")
	}
	known, err := n.store.get(r.VolumeId)
	if err != nil {
		return nil, err
	}
	if known.Node != n.node || r.PublishContext["attached-to"] != n.node {
		return nil, status.Errorf(codes.FailedPrecondition, "volume %q is attached to %q, not to %q", r.VolumeId, known.Node, n.node)
	}
	if r.VolumeCapability.GetBlock() != nil {
		return &csi.NodeStageVolumeResponse{}, internal(n.store.attach(r.VolumeId, known.Bytes))
	}
	return &csi.NodeStageVolumeResponse{}, bind(n.store.content(r.VolumeId), r.StagingTargetPath, false)
}

func (n *nodeService) NodeUnstageVolume(_ context.Context, r *csi.NodeUnstageVolumeRequest) (*csi.NodeUnstageVolumeResponse, error) {
	if r.VolumeId == "" || r.StagingTargetPath == "" {
		return nil, invalid("volume_id or staging_target_path")
	}
	// A volume that is detached while it is staged would lose what is written to it.
	known, err := n.store.get(r.VolumeId)
	if err == nil && known.Node != n.node && mounted(r.StagingTargetPath) {
		return nil, status.Errorf(codes.Internal, "volume %q was detached from %q while it was staged", r.VolumeId, n.node)
	}
	if err := detach(r.VolumeId); err != nil {
		return nil, internal(err)
	}
	return &csi.NodeUnstageVolumeResponse{}, unbind(r.StagingTargetPath)
}

func (n *nodeService) NodePublishVolume(_ context.Context, r *csi.NodePublishVolumeRequest) (*csi.NodePublishVolumeResponse, error) {
	if r.VolumeId == "" || r.TargetPath == "" || r.VolumeCapability == nil {
		return nil, invalid("volume_id, target_path or volume_capability")
	}
	source := r.StagingTargetPath
	if r.VolumeContext["csi.storage.k8s.io/ephemeral"] == "true" {
		source = n.store.content(r.VolumeId)
		if err := os.MkdirAll(source, 0o777); err != nil {
			return nil, status.Error(codes.Internal, err.Error())
		}
		told := fmt.Sprintf("%s %s %s\n", r.VolumeContext["csi.storage.k8s.io/pod.name"], r.VolumeContext["said"], r.Secrets["key"])
		if err := os.WriteFile(filepath.Join(source, "told"), []byte(told), 0o644); err != nil {
			return nil, status.Error(codes.Internal, err.Error())
		}
	} else {
		if source == "" {
			return nil, invalid("staging_target_path")
		}
		if _, err := n.store.get(r.VolumeId); err != nil {
			return nil, err
		}
	}
	if r.VolumeCapability.GetBlock() != nil {
		number := loopOf(r.VolumeId)
		if number < 0 {
			return nil, status.Errorf(codes.FailedPrecondition, "volume %q is not staged", r.VolumeId)
		}
		return &csi.NodePublishVolumeResponse{}, internal(makeNode(r.TargetPath, number))
	}
	return &csi.NodePublishVolumeResponse{}, bind(source, r.TargetPath, r.Readonly)
}

func (n *nodeService) NodeUnpublishVolume(_ context.Context, r *csi.NodeUnpublishVolumeRequest) (*csi.NodeUnpublishVolumeResponse, error) {
	if r.VolumeId == "" || r.TargetPath == "" {
		return nil, invalid("volume_id or target_path")
	}
	if err := unbind(r.TargetPath); err != nil {
		return nil, err
	}
	if _, err := n.store.get(r.VolumeId); status.Code(err) == codes.NotFound {
		// It was an ephemeral one.
		_ = os.RemoveAll(n.store.content(r.VolumeId))
	}
	return &csi.NodeUnpublishVolumeResponse{}, nil
}

func (n *nodeService) NodeExpandVolume(_ context.Context, r *csi.NodeExpandVolumeRequest) (*csi.NodeExpandVolumeResponse, error) {
	if r.VolumeId == "" || r.VolumePath == "" {
		return nil, invalid("volume_id or volume_path")
	}
	known, err := n.store.get(r.VolumeId)
	if err != nil {
		return nil, err
	}
	if r.GetVolumeCapability().GetBlock() != nil {
		return &csi.NodeExpandVolumeResponse{CapacityBytes: known.Bytes}, internal(n.store.grow(r.VolumeId, known.Bytes))
	}
	if !mounted(r.VolumePath) {
		return nil, status.Errorf(codes.NotFound, "nothing is mounted at %s", r.VolumePath)
	}
	text := fmt.Sprintf("%d\n", known.Bytes)
	if err := os.WriteFile(filepath.Join(r.VolumePath, ".size"), []byte(text), 0o644); err != nil {
		return nil, status.Error(codes.Internal, err.Error())
	}
	return &csi.NodeExpandVolumeResponse{CapacityBytes: known.Bytes}, nil
}
