"""LoomDB's rules, by noun; this only says which file decides what."""

from google.protobuf.message import Message

from loom.decider import Code, Context, Rejected, Resource
from loom.v1 import loomdb_pb2 as pb
from loomos.loomdb.decide import alert, feed, keys, report, retention, subscription
from loomos.loomdb.decide.read import opened, read
from loomos.loomdb.state import PLATFORM, Trail

__all__ = ["PLATFORM", "decide", "resource"]


def decide(command: Message, state: Trail, context: Context) -> list[Message]:
    """The events that a command leads to."""
    match command:
        case (
            pb.GetEventRequest()
            | pb.ListEventsRequest()
            | pb.GetStoryRequest()
            | pb.WalkCausesRequest()
            | pb.SearchEventsRequest()
            | pb.AnalyzeEventsRequest()
            | pb.RunAuditSqlRequest()
            | pb.CompareMomentsRequest()
            | pb.GetProofRequest()
            | pb.GetEventProofRequest()
            | pb.ProveEventsRequest()
            | pb.ReadTreeEntriesRequest()
            | pb.ExportRecordsRequest()
            | pb.GetCheckpointRequest()
            | pb.CheckConsistencyRequest()
            | pb.GetLogRetentionRequest()
            | pb.ListArchiveRequest()
            | pb.ListKeysRequest()
            | pb.PreviewErasureRequest()
            | pb.GetErasureRequest()
            | pb.ListErasuresRequest()
        ):
            return read(command)
        case (
            pb.ReportAccessRequest()
            | pb.ReportActivityRequest()
            | pb.ReportLineageRequest()
            | pb.ReportSubjectRequest()
        ):
            return report.issue(command)
        case pb.RotateKeyRequest():
            return keys.rotate_key(command, state)
        case pb.RewrapKeysRequest():
            return keys.rewrap_keys(command, state)
        case pb.EraseSubjectRequest():
            return keys.erase_subject(command, state, context)
        case pb.ReportKeysDestroyedRequest():
            return keys.report_destroyed(command, state)
        case pb.ReportKeysRenewedRequest():
            return keys.report_renewed(command, state)
        case pb.ReportStreamRequest():
            return opened(command)
        case pb.CreateSubscriptionRequest():
            return subscription.create(command, state, context)
        case pb.DeleteSubscriptionRequest():
            return subscription.delete(command, state)
        case pb.ReportDeadDeliveriesRequest():
            return subscription.bury(command, state)
        case pb.ReplayDeadDeliveriesRequest():
            return subscription.replay(command, state)
        case pb.ReportProgressRequest():
            return subscription.advance(command, state)
        case pb.EnableFeedRequest():
            return feed.enable(command, state, context)
        case pb.DisableFeedRequest():
            return feed.disable(command, state)
        case pb.SetLogRetentionRequest():
            return retention.set_rules(command, state)
        case pb.PlaceHoldRequest():
            return retention.place_hold(command, state, context)
        case pb.ReleaseHoldRequest():
            return retention.release_hold(command, state)
        case pb.RunArchiveRequest():
            return retention.run_archive(command, context)
        case pb.ReportArchivedRequest():
            return retention.report_archived(command, state)
        case pb.ReportArchiveRunRequest():
            return retention.report_run(command, state)
        case pb.ShortenLogRequest():
            return retention.shorten_log(command, state)
        case pb.DeleteArchivedRequest():
            return retention.delete_archived(command, state)
        case pb.CreateAlertRuleRequest():
            return alert.create_rule(command, state, context)
        case pb.UpdateAlertRuleRequest():
            return alert.update_rule(command, state, context)
        case pb.DeleteAlertRuleRequest():
            return alert.delete_rule(command, state)
        case pb.CreateNotifyTargetRequest():
            return alert.create_target(command, state, context)
        case pb.DeleteNotifyTargetRequest():
            return alert.delete_target(command, state)
        case pb.RaiseAlertRequest():
            return alert.raise_alert(command, state, context)
        case pb.ReportAlertsSuppressedRequest():
            return alert.suppress(command, state)
        case pb.AcknowledgeAlertRequest():
            return alert.acknowledge(command, state, context)
        case pb.ResolveAlertRequest():
            return alert.resolve(command, state, context)
        case pb.ReportNotificationRequest():
            return alert.report_notification(command)
    raise Rejected(Code.INVALID_ARGUMENT, f"loomdb does not know {command.DESCRIPTOR.full_name}")


def resource(command: Message, state: Trail) -> Resource | None:
    """The organisation whose trail, keys or rules a command concerns."""
    organisation = str(getattr(command, "organisation_id", ""))
    if not organisation:
        return None
    return Resource("platform" if organisation == PLATFORM else "organisation", organisation)
